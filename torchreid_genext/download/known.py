"""The table of weights and data that can be fetched; what nobody has told of a file is None."""

from __future__ import annotations

import os
from dataclasses import dataclass

__all__ = ["HUB", "KNOWN", "File", "Known", "address", "find", "hub"]

HUB = "https://huggingface.co"
_SD15 = "451f4fe16113bff5a5d2269ed5ad43b0592e9a14"  # revisions, which do not change any more
_VAE = "31f26fdeee1355a5c34592e401dd41e45d25a493"


@dataclass(frozen=True)
class File:
    """A file that can be fetched.

    Attributes:
        path: where it belongs below the folder of its set.
        url: where it comes from.
        licence: of the file.
        size: in bytes.
        sha256: 64 hexadecimal digits.
        drive: whether it lies on Google Drive, whose questions about large files gdown answers.
        packed: whether it is an archive, which is unpacked when it is there.
    """

    path: str
    url: str
    licence: str
    size: int | None = None
    sha256: str | None = None
    drive: bool = False
    packed: bool = False


@dataclass(frozen=True)
class Known:
    """Files that belong together.

    Attributes:
        what: they are, in a line.
        read_by: whom they are for.
        use: what to do with them; ``{folder}`` stands for where they are.
        files: all of them.
    """

    what: str
    read_by: str
    use: str
    files: tuple[File, ...]


def hub(repository: str, path: str, revision: str = "main") -> str:
    """The address of a file in a repository of the hub."""
    return f"{HUB}/{repository}/resolve/{revision}/{path}"


def _ipg(name: str, size: int) -> File:
    return File(name, hub("yuanc3/Pose2ID", f"pretrained/{name}"), "MIT (their repository)", size)


def _vae(name: str, size: int, sha256: str) -> File:
    return File(f"sd-vae-ft-mse/{name}", hub("stabilityai/sd-vae-ft-mse", name, _VAE), "MIT", size, sha256)


def _generated(name: str, key: str) -> File:
    url = f"https://drive.google.com/uc?id={key}"
    return File(name, url, "research only, as Market-1501", drive=True, packed=True)


KNOWN = {
    "ipg": Known(
        what="Pose2ID's IPG: its authors' five networks, and what they need of Stable Diffusion",
        read_by="IPGPipeline.from_official",
        use="torchreid-genext generate --ckpt_dir {folder} --pose_dir standard_poses --ref_dir ref"
        " --out_dir output",
        files=(
            _ipg("reference_unet.pth", 3_438_323_817),
            _ipg("denoising_unet.pth", 3_438_374_293),
            _ipg("pose_guider.pth", 2_065_001),
            _ipg("IFR.pth", 235_998_939),
            _ipg("transformer_20.pth", 414_700_189),
            File(
                "stable-diffusion-v1-5/unet/config.json",
                hub("stable-diffusion-v1-5/stable-diffusion-v1-5", "unet/config.json", _SD15),
                "CreativeML Open RAIL-M",
            ),
            _vae("config.json", 547, "92d3dfb746fca211a2c9e019e285f8597412211728dce3c5bcf4eda0f2d62e7e"),
            _vae(
                "diffusion_pytorch_model.safetensors",
                334_643_276,
                "a1d993488569e928462932c8c38a0760b874d166399b14414135bd9c42df5815",
            ),
        ),
    ),
    "ipg_market1501": Known(
        what="Market-1501's test images in eight poses, as Pose2ID's authors generated them: two archives",
        read_by="genext.ipg.root",
        use="set the key genext.ipg.root to {folder}, where both are unpacked",
        files=(
            _generated("query_gen.archive", "1oiOutY64FQn9RTF2l_T0A8iPCWMkJi3a"),
            _generated("bounding_box_test_gen.archive", "1QdH0CctiUrZTCE3nPzc_kPmgAaxhhWzd"),
        ),
    ),
}


def find(name: str) -> Known:
    """What is known under a name.

    Raises:
        ValueError: if nothing is; lists the choices.
    """
    if name.lower().startswith("dukemtmc"):
        raise ValueError(f"expected data to be had, got {name}; it was withdrawn and is never downloaded")
    if name not in KNOWN:
        raise ValueError(f"unknown weights or data {name!r}; choose from {', '.join(KNOWN)}")
    return KNOWN[name]


def address(file: File, mirror: str | None = None) -> str:
    """Where a file comes from; `mirror`, or else the environment variable HF_ENDPOINT, stands in for the hub.

    Raises:
        ValueError: if the mirror is no address.
    """
    endpoint = mirror or os.environ.get("HF_ENDPOINT") or HUB
    if not endpoint.startswith(("http://", "https://")):
        raise ValueError(f"expected a mirror that begins with http:// or https://, got {endpoint!r}")
    return endpoint.rstrip("/") + file.url.removeprefix(HUB) if file.url.startswith(f"{HUB}/") else file.url
