"""What the models are made of: networks, shapes, and requests with their answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import _networks
import numpy as np
import torch

Shape = tuple[int, ...]
Profile = Mapping[str, tuple[Shape, Shape, Shape]]
Arrays = dict[str, np.ndarray]


@dataclasses.dataclass
class Case:
    """One request, and its answer in higher precision."""

    inputs: Arrays
    outputs: Arrays


@dataclasses.dataclass
class Recipe:
    """What a plan is made of. ``static``: extents that are fixed before building; otherwise there are profiles."""

    name: str
    onnx: str
    inputs: Mapping[str, str]  # name -> dtype
    outputs: Mapping[str, str]
    cases: Callable[[], list[Case]]
    tolerance: float = 0.0  # of norm(got - reference) / norm(reference); 0: bit for bit
    static: Mapping[str, Shape] | None = None
    profiles: Sequence[Profile] = ()
    values: Profile | None = None  # of inputs whose values are shapes: the least, the usual, the largest
    set_of: str = ""  # models that belong together
    needs_gpu: bool = False  # the builder makes it only where there is a GPU that can run it


class Maker:
    """Makes models into a folder, one at a time, and says how long each took."""

    def __init__(self, folder: Path, seed: int, ocr: Path | None) -> None:
        self.folder = folder
        self.random = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self.gpu = torch.cuda.is_available()
        self.device = torch.device("cuda" if self.gpu else "cpu")
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        self.ocr = ocr
        self._networks: dict[str, torch.nn.Module] = {}

    def onnx_file(self, name: str, make: Callable[[], bytes]) -> str:
        """Write NAME.onnx; return the file's name."""
        path = self.folder / f"{name}.onnx"
        path.write_bytes(make())
        return path.name

    def normal(self, *shape: int) -> np.ndarray:
        """Return noise, float32."""
        return self.random.standard_normal(shape, dtype=np.float32)

    def network(self, name: str, make: Callable[[], torch.nn.Module]) -> torch.nn.Module:
        """Return a network whose float32 weights float16 can say, on the CPU."""
        if name not in self._networks:
            network = make().eval()
            network.load_state_dict({key: value.half().float() for key, value in network.state_dict().items()})
            self._networks[name] = network
        return self._networks[name]

    @torch.no_grad()
    def exact(self, network: torch.nn.Module, inputs: Arrays) -> np.ndarray:
        """Run a float32 network."""
        tensors = [torch.from_numpy(value).to(self.device) for value in inputs.values()]
        network.to(self.device)
        result = network(*(t.float() if t.is_floating_point() else t for t in tensors)).cpu().numpy()
        network.cpu()
        return result

    # Recipes

    def resnets(self, batches: Sequence[int]) -> list[Recipe]:
        """ResNet-50 in float16: a plan for each batch size, and one for all up to 32."""
        network = self.network("resnet50", lambda: _networks.calibrated(_networks.resnet50(), (8, 3, 224, 224)))

        def written() -> bytes:
            torch.save(network.state_dict(), self.folder / "resnet50.pt")
            image = torch.randn(2, 3, 224, 224)
            return _networks.export(network, {"data": image}, ["prob"], {"data": ["batch"], "prob": ["batch"]})

        onnx = self.onnx_file("resnet50", written)

        def case(batch: int) -> Case:
            inputs = {"data": self.normal(batch, 3, 224, 224).astype(np.float16)}
            return Case(inputs, {"prob": self.exact(network, inputs)})

        common: dict[str, Any] = {
            "onnx": onnx,
            "inputs": {"data": "float16"},
            "outputs": {"prob": "float16"},
            "tolerance": 1e-2,
        }
        made = [
            Recipe(
                f"resnet50_b{batch}",
                cases=lambda batch=batch: [case(batch), case(batch)],
                static={"data": (batch, 3, 224, 224)},
                set_of="resnet50",
                **common,
            )
            for batch in batches
        ]
        shape = (3, 224, 224)
        profile = {"data": ((1, *shape), (8, *shape), (32, *shape))}
        return [
            *made,
            Recipe("resnet50_dynamic", cases=lambda: [case(n) for n in (1, 8, 5)], profiles=[profile], **common),
        ]

    def wides(self, widths: Sequence[int]) -> list[Recipe]:
        """Networks of different widths, for what many models cost in memory."""
        made = []
        for width in widths:
            network = self.network(f"wide{width}", lambda width=width: _networks.wide(width))
            onnx = self.onnx_file(
                f"wide{width}",
                lambda network=network: _networks.export(
                    network, {"x": torch.randn(1, 3, 112, 112)}, ["y"], {"x": ["batch"], "y": ["batch"]}
                ),
            )

            def cases(network: torch.nn.Module = network) -> list[Case]:
                inputs = {"x": self.normal(2, 3, 112, 112).astype(np.float16)}
                return [Case(inputs, {"y": self.exact(network, inputs)})]

            made.append(
                Recipe(
                    f"wide{width}",
                    onnx,
                    {"x": "float16"},
                    {"y": "float16"},
                    cases,
                    tolerance=1e-2,
                    profiles=[
                        {"x": ((1, 3, 112, 112), (2, 3, 112, 112), (2, 3, 112, 112))},
                        {"x": ((3, 3, 112, 112), (8, 3, 112, 112), (8, 3, 112, 112))},
                    ],
                    set_of="wide",
                )
            )
        return made

    def minilm(self) -> list[Recipe]:
        """A transformer with two int64 inputs, both axes dynamic."""
        network = self.network("minilm", _networks.MiniLM)
        words = torch.ones(2, 16, dtype=torch.int64)
        axes = {name: ["batch", "length"] for name in ("input_ids", "attention_mask", "last_hidden_state")}
        onnx = self.onnx_file(
            "minilm",
            lambda: _networks.export(
                network, {"input_ids": words, "attention_mask": words}, ["last_hidden_state"], axes
            ),
        )

        def cases() -> list[Case]:
            made = []
            for batch, length in ((1, 16), (4, 64)):
                ids = self.random.integers(0, _networks.MiniLM.VOCABULARY, (batch, length), dtype=np.int64)
                mask = (np.arange(length)[None] < self.random.integers(4, length + 1, (batch, 1))).astype(np.int64)
                inputs = {"input_ids": ids, "attention_mask": mask}
                made.append(Case(inputs, {"last_hidden_state": self.exact(network, inputs)}))
            return made

        shapes = ((1, 8), (8, 64), (32, 128))
        return [
            Recipe(
                "minilm",
                onnx,
                {"input_ids": "int64", "attention_mask": "int64"},
                {"last_hidden_state": "float16"},
                cases,
                tolerance=1e-2,
                profiles=[{"input_ids": shapes, "attention_mask": shapes}],
            )
        ]

    def small(self) -> list[Recipe]:
        """One network for each property: element types, profiles, shapes that the values decide."""
        made = []
        profile = {"x": ((1, 4), (8, 4), (64, 4))}
        for dtype, draw in ELEMENTS.items():
            x = draw(self.random, (5, 4))

            def cases(dtype: str = dtype, x: np.ndarray = x) -> list[Case]:
                if dtype == "bool":
                    return [Case({"x": x}, {"y": ~x})]
                if dtype == "bfloat16":
                    doubled = (torch.from_numpy(x.view(np.int16)).view(torch.bfloat16) * 2).view(torch.int16).numpy()
                    return [Case({"x": x}, {"y": doubled.view(np.uint16)})]
                return [Case({"x": x}, {"y": x + x})]

            onnx = self.onnx_file(f"double_{dtype}", lambda dtype=dtype: _networks.elementwise(dtype))
            made.append(Recipe(f"double_{dtype}", onnx, {"x": dtype}, {"y": dtype}, cases, profiles=[profile]))

        # Every float8_e4m3fn but the two that are not numbers.
        codes = np.array([code for code in range(256) if code & 0x7F != 0x7F], np.uint8)
        eighths = self.random.choice(codes, (5, 4))
        decoded = torch.from_numpy(eighths).view(torch.float8_e4m3fn).float().numpy()
        made.append(
            Recipe(
                "to_float8",
                self.onnx_file("to_float8", _networks.to_float8),
                {"x": "float32"},
                {"y": "float8_e4m3fn"},
                lambda: [Case({"x": decoded}, {"y": eighths})],
                profiles=[profile],
                needs_gpu=True,
            )
        )

        def positions() -> list[Case]:
            found = []
            for n in (1, 7, 100):
                x = np.where(self.random.random(n) < 0.5, self.normal(n), 0).astype(np.float32)
                found.append(Case({"x": x}, {"y": np.nonzero(x)[0][None].astype(np.int64)}))
            return [*found, Case({"x": np.zeros(9, np.float32)}, {"y": np.zeros((1, 0), np.int64)})]

        made.append(
            Recipe(
                "nonzero",
                self.onnx_file("nonzero", _networks.nonzero),
                {"x": "float32"},
                {"y": "int64"},
                positions,
                profiles=[{"x": ((1,), (64,), (1024,))}],
                needs_gpu=True,
            )
        )

        def repeated() -> list[Case]:
            found = []
            for n in (1, 3, 64):
                x = self.normal(1, 4)
                inputs = {"x": x, "k": np.array([n, 4], np.int64)}
                found.append(Case(inputs, {"y": np.broadcast_to(x, (n, 4)).copy()}))
            return found

        made.append(
            Recipe(
                "expanded",
                self.onnx_file("expanded", _networks.expanded),
                {"x": "float32", "k": "int64"},
                {"y": "float32"},
                repeated,
                values={"k": ((1, 4), (8, 4), (64, 4))},
            )
        )
        a, b = self.normal(16, 32), self.normal(32, 8)

        def dense() -> list[Case]:
            found = []
            for n in (1, 3, 4, 16, 40, 64):  # four of the first profile, then of the second
                x = self.normal(n, 16)
                found.append(Case({"x": x}, {"y": np.maximum(x.astype(np.float64) @ a, 0) @ b}))
            return found

        made.append(
            Recipe(
                "two_profiles",
                self.onnx_file("two_profiles", lambda: _networks.perceptron((a, b))),
                {"x": "float32"},
                {"y": "float32"},
                dense,
                tolerance=5e-3,  # TF32
                profiles=[{"x": ((1, 16), (2, 16), (4, 16))}, {"x": ((16, 16), (32, 16), (64, 16))}],
            )
        )
        c, d = self.normal(512, 16, 3, 3) / 12, self.normal(16, 512, 3, 3) / 68

        def convolved() -> list[Case]:
            x = self.normal(1, 16, 128, 128)
            h = torch.relu(torch.conv2d(torch.from_numpy(x).double(), torch.from_numpy(c).double(), padding=1))
            y = torch.conv2d(h, torch.from_numpy(d).double(), padding=1)
            return [Case({"x": x}, {"y": y.numpy()})]

        image = (16, 128, 128)
        made.append(
            Recipe(
                "hungry",
                self.onnx_file("hungry", lambda: _networks.hungry((c, d))),
                {"x": "float32"},
                {"y": "float32"},
                convolved,
                tolerance=5e-3,
                profiles=[{"x": ((1, *image), (1, *image), (64, *image))}],
            )
        )
        return made

    def texts(self) -> list[Recipe]:
        """PP-OCR's classifier and recogniser, where their ONNX files were brought along."""
        if self.ocr is None:
            return []
        import onnxruntime

        made = []
        for name, pattern, low, high in (
            ("ocr_cls", "*cls*.onnx", (1, 3, 48, 192), (8, 3, 48, 192)),
            ("ocr_rec", "*rec*.onnx", (1, 3, 48, 160), (8, 3, 48, 320)),
        ):
            for file in sorted(self.ocr.glob(pattern))[:1]:
                session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
                out = session.get_outputs()[0].name

                def cases(session: Any = session, shape: Shape = low, out: str = out) -> list[Case]:
                    inputs = {"x": self.normal(*shape)}
                    return [Case(inputs, {out: session.run([out], inputs)[0]})]

                made.append(
                    Recipe(
                        name,
                        self.onnx_file(name, lambda file=file: _networks.with_axes_of_their_own(file.read_bytes())),
                        {"x": "float32"},
                        {out: "float32"},
                        cases,
                        tolerance=2e-2,  # TF32 through tens of layers
                        profiles=[{"x": (low, low, high)}],
                    )
                )
        return made


def _bfloats(random: np.random.Generator, shape: Shape) -> np.ndarray:
    return (random.standard_normal(shape, dtype=np.float32).view(np.uint32) >> 16).astype(np.uint16)


ELEMENTS: dict[str, Callable[[np.random.Generator, Shape], np.ndarray]] = {
    "float32": lambda random, shape: random.standard_normal(shape, dtype=np.float32),
    "float16": lambda random, shape: random.standard_normal(shape).astype(np.float16),
    "bfloat16": _bfloats,
    # Beyond what 32 bits hold: a narrowing on the way would show.
    "int64": lambda random, shape: random.integers(-(2**61), 2**61, shape, dtype=np.int64),
    "int32": lambda random, shape: random.integers(-(2**29), 2**29, shape, dtype=np.int32),
    "bool": lambda random, shape: random.random(shape) < 0.5,
}
