"""The code of the model that a run logs: MLflow runs this file when it saves or loads the model.

It imports mlflow at its top because it *is* a model of MLflow's "models from code" kind; nothing of
the project imports it. A logged model draws three images as each of the clients 0 and 1 with

    model = mlflow.pyfunc.load_model(uri)
    model.predict(pandas.DataFrame({"client_id": [0, 1]}), params={"num_images": 3, "seed": 1})
"""

from typing import Any

import numpy as np
import pandas as pd  # comes with mlflow
from mlflow.models import set_model
from mlflow.pyfunc.model import PythonModel, PythonModelContext

POPULATION = -1  # the client id that asks for the backbone without any client's own part


class Generator(PythonModel):
    """Draws images as the clients of a finished run."""

    def load_context(self, context: PythonModelContext) -> None:
        """Load the run out of the model's artifacts."""
        from pipeline.inference.saved_run import SavedRun

        self.run = SavedRun.load(context.artifacts["run"])

    def predict(  # pyright: ignore[reportIncompatibleMethodOverride]  (its base returns None)
        self,
        context: PythonModelContext,
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> np.ndarray:
        """Return images (rows * num_images, C, H, W) float32 in [-1, 1], row after row.

        `model_input` has the column `client_id`, where -1 is the population. A row depends on its
        client, `seed`, `num_images` and `guidance` only: equal rows draw equal images. A guidance
        below 0 is each client's own. RunError if the run has no such client.
        """
        assert params is not None  # MLflow fills in the signature's defaults
        settings, guidance = (params["num_images"], params["seed"]), params["guidance"]
        ids = [None if i == POPULATION else int(i) for i in model_input["client_id"]]
        scales = [guidance if guidance >= 0 else self.run.guidance(i) for i in ids]
        drawn = zip(ids, scales, strict=True)
        return np.concatenate([self.run.draw(i, *settings, scale) for i, scale in drawn])


set_model(Generator())
