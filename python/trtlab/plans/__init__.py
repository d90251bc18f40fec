"""Plans: TensorRT engines in files, built from ONNX by NVIDIA's own builder, and checked before they are loaded.

A plan is native code: loading one runs what its author wanted with the rights of this process. So there is a manifest
beside each, ``<plan>.json``, with the plan's hash, what it was built with and for which GPU, and, if whoever built it
has signed it, an Ed25519 signature. ``verify`` reads both and hands out bytes that fit. By default a plan without a
manifest is loaded all the same; where TRTLAB_REQUIRE_SIGNED_PLANS names a public key (PEM) or a folder of such, nothing
is loaded that none of them has signed.

Importing this imports no builder, no ``onnx`` and no ``cryptography``.
"""

from trtlab.plans.building import Built, build, plan_for
from trtlab.plans.checking import check_fit, verify
from trtlab.plans.listening import Progress
from trtlab.plans.manifest import Manifest, PlanTensor, manifest_path
from trtlab.plans.options import Options
from trtlab.plans.profiles import parse_profile, profile_text
from trtlab.plans.signing import signatures_required
from trtlab.plans.store import Store, StoreInfo

__all__ = [
    "Built",
    "Manifest",
    "Options",
    "PlanTensor",
    "Progress",
    "Store",
    "StoreInfo",
    "build",
    "check_fit",
    "manifest_path",
    "parse_profile",
    "plan_for",
    "profile_text",
    "signatures_required",
    "verify",
]
