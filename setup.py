"""Package metadata."""

from setuptools import find_packages, setup

# PyPI torchreid 0.2.5 declares no dependency, but imports these (the last three only for some data sets).
TORCHREID_NEEDS = [
    "opencv-python-headless>=4.8.0.76",
    "scipy>=1.10",
    "tensorboard>=2.14",
    "h5py>=3.8",
    "imageio>=2.31",
    "six>=1.16",
]

setup(
    name="torchreid_genext",
    version="0.1.0",
    description="Generative person re-identification as a plugin for torchreid",
    license="MIT",
    author="torchreid_genext authors",
    packages=find_packages(include=["torchreid_genext", "torchreid_genext.*"]),
    package_data={"torchreid_genext.ranklists": ["*.html", "*.css", "*.js"]},
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
        "export": ["onnx>=1.16", "onnxscript>=0.5", "onnxruntime>=1.18"],
        "metrics": ["torchmetrics>=1.4", "torch-fidelity>=0.3"],
        "docs": ["zensical>=0.0.73", "mkdocstrings-python>=2.0.11"],
        "test": [
            "pytest>=8.0",
            "pytest-xdist>=3.8",
            "hypothesis>=6.100",
            "faiss-cpu>=1.8",
            "timm>=1.0",
            "onnx>=1.16",
            "onnxscript>=0.5",
            "onnxruntime>=1.18",
        ],
    },
)
