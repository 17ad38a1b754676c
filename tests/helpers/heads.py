"""A head file whose description or numbers were changed."""

import json

import safetensors.numpy


def rewrite(path, *, about=None, arrays=None):
    with safetensors.safe_open(path, "np") as file:
        described = json.loads(file.metadata()["indexer"]) | (about or {})
    data = safetensors.numpy.load_file(path) | (arrays or {})
    safetensors.numpy.save_file(
        {k: v for k, v in data.items() if v is not None}, path, {"indexer": json.dumps(described)}
    )
