"""Defects of hypha-rpc, aiortc and BioEngine, each shown on stock packages; see README.md.

Nothing here imports samcourier or samservice: whoever mends a defect can run it as it is.
"""
