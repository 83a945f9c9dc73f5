"""What can be known before a run: does the service work, how much will be written, how long it
takes."""
