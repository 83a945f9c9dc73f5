from .api import connect as connect
from .api import open_results as open_results
from .api import segment_dataset as segment_dataset

__version__: str
