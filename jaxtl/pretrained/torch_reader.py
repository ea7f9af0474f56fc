"""A script: the tensors of a torch file as safetensors, by torch's restricted loader.

python -P torch_reader.py FILE OUT

It imports nothing of jaxtl. On failure the last line of stderr says why.
"""

import re
import sys
import warnings
from typing import Any

# Training scripts put the weights below one of these; the moving average is the weight to use.
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net", "module")


def main(file: str, out: str) -> None:
  """Reads `file`, writes `out`."""
  import torch
  from safetensors.numpy import save_file

  warnings.filterwarnings("ignore")
  try:
    stored = torch.load(file, map_location="cpu", weights_only=True)
  except Exception as error:  # whatever torch finds wrong, one line says it
    raise SystemExit(_reason(error)) from None
  tensors = _flat(_unwrapped(stored), "")
  save_file({key: _numpy(value) for key, value in tensors.items()}, out)


def _reason(error: Exception) -> str:
  text = " ".join(str(error).split())
  if "TorchScript" in text:
    return (
      "it is a TorchScript archive, which is a program; load it where you trust it and save its state_dict"
    )
  asked = re.search(r"(?:GLOBAL|Unsupported (?:global|class|operand)[^:]*:?) ?(?:GLOBAL )?([\w.]+)", text)
  if "weights_only" in text.lower() or "Weights only" in text:
    what = f"asks for {asked.group(1)}" if asked else "holds more than tensors"
    return f"it is a pickle that {what}, and only tensors are read"
  return text[:300]


def _unwrapped(stored: Any) -> Any:
  while isinstance(stored, dict):
    inside = next((stored[key] for key in WRAPPERS if isinstance(stored.get(key), dict)), None)
    if inside is None:
      return stored
    stored = inside
  raise SystemExit(f"it holds a {type(stored).__name__}, and not tensors by name")


def _flat(stored: dict, before: str) -> dict[str, Any]:
  """Tensors by their dotted names; DataParallel's `module.` goes."""
  import torch

  found: dict[str, Any] = {}
  for key, value in stored.items():
    name = f"{before}{key}".removeprefix("module.")
    if isinstance(value, torch.Tensor):
      found[name] = value
    elif isinstance(value, dict):
      found |= _flat(value, f"{name}.")
  return found


def _numpy(tensor: Any) -> Any:
  import torch

  tensor = tensor.detach().contiguous()
  return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy().copy()


if __name__ == "__main__":
  main(*sys.argv[1:])
