"""Package metadata, and what lies beside the package in a clone and inside it once it is installed."""

import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent

# PyPI torchreid 0.2.5 declares no dependency, but imports these (the last three only for some data sets).
TORCHREID_NEEDS = [
    "opencv-python-headless>=4.8.0.76",
    "scipy>=1.10",
    "tensorboard>=2.14",
    "h5py>=3.8",
    "imageio>=2.31",
    "six>=1.16",
]


def shipped() -> list[Path]:
    """Recipes and weights; others, which users fetched, may lie beside the latter."""
    folders = ("configs", "pretrained/synthreid", "pretrained/cards")
    return [path for folder in folders for path in sorted((HERE / folder).rglob("*")) if path.is_file()]


class WithShipped(build_py):
    """Puts them into the package of a wheel; an editable one finds them in the clone."""

    def run(self) -> None:
        """Build, and copy."""
        super().run()
        for path in () if self.editable_mode else shipped():
            target = Path(self.build_lib, "torchreid_genext", path.relative_to(HERE))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)


setup(
    name="torchreid_genext",
    version="0.2.0",
    description="Generative person re-identification as a plugin for torchreid",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="MIT",
    author="torchreid_genext authors",
    keywords=["person re-identification", "diffusion", "re-ranking", "torchreid", "retrieval"],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Science/Research",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        *(f"Programming Language :: Python :: 3.{minor}" for minor in range(10, 14)),
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Typing :: Typed",
    ],
    project_urls={
        "torchreid": "https://github.com/KaiyangZhou/deep-person-reid",
        "Pose2ID": "https://github.com/yuanc3/Pose2ID",
    },
    packages=find_packages(include=["torchreid_genext", "torchreid_genext.*"]),
    package_data={
        "torchreid_genext": ["py.typed"],
        "torchreid_genext.benchmark": ["*.html", "*.css"],
        "torchreid_genext.ranklists": ["*.html", "*.css", "*.js"],
        "torchreid_genext.explore": ["*.css", "*.js"],
    },
    cmdclass={"build_py": WithShipped},
    entry_points={"console_scripts": ["torchreid-genext = torchreid_genext.cli:console"]},
    python_requires=">=3.10",
    install_requires=[
        "torchreid>=0.2.5",
        "torch>=2.6",
        "torchvision>=0.21",
        "accelerate>=1.0",
        "diffusers>=0.32",
        "yacs>=0.1.8",
        "pyyaml>=6.0",
        "numpy>=1.26",
        "pillow>=10.4",
        "gdown>=5.0",
        "safetensors>=0.4.3",
        "tqdm>=4.66",
        "matplotlib>=3.8",
        *TORCHREID_NEEDS,
    ],
    extras_require={
        "faiss": ["faiss-cpu>=1.8"],
        "timm": ["timm>=1.0"],
        "onnx": ["onnxruntime>=1.18"],
        "parquet": ["pyarrow>=15.0"],
        "export": ["onnx>=1.16", "onnxscript>=0.5", "onnxruntime>=1.18"],
        "app": ["gradio>=6.0"],
        "metrics": ["torchmetrics>=1.4", "torch-fidelity>=0.3"],
        "docs": ["zensical>=0.0.73", "mkdocstrings-python>=2.0.11"],
        "test": [
            "pytest>=8.0",
            "pytest-xdist>=3.8",
            "setuptools>=70.1",
            "hypothesis>=6.100",
            "faiss-cpu>=1.8",
            "timm>=1.0",
            "onnx>=1.16",
            "onnxscript>=0.5",
            "onnxruntime>=1.18",
            "pyarrow>=15.0",
        ],
    },
)
