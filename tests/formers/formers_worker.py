"""One rank: what tests/emulated/own_model_worker.py does, for models of PaddleFormers."""

import sys
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "emulated")]
import formers_models  # noqa: E402
import own_model_worker  # noqa: E402

own_model_worker.main(Path(sys.argv[1]), sys.argv[2:], formers_models.OWN, formers_models.LAYERS)
