"""Images and texts for training: sources read in place, batches of one exact order."""

from ._batches import Batches as Batches
from ._batches import batches as batches
from ._builders import CSVBuilder as CSVBuilder
from ._builders import TFRecordBuilder as TFRecordBuilder
from ._builders import WebDatasetBuilder as WebDatasetBuilder
from ._captions import MissingCaptionError as MissingCaptionError
from ._classes import LabelledImages as LabelledImages
from ._classes import open_classes as open_classes
from ._fingerprint import fingerprint as fingerprint
from ._open import open_source as open_source
from ._pairs import Pairs as Pairs
from ._report import Report as Report
from ._report import examine as examine
from ._source import AbstractSource as AbstractSource
from ._source import Example as Example
from ._source import Mixture as Mixture
from ._write import write_tfrecords as write_tfrecords
