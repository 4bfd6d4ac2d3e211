import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from producing import Running, commit, published, records, sinking, until

from processors.dataset import Datasets
from processors.rows import Place, message_batch
from producers import prompts
from producers.sources.held_out import Reserved, held_out
from producers.sources.items import make_problem
from schemas import messages as m
from schemas.load import BadSettings
from schemas.topics import BY_MESSAGE
