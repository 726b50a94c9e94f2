"""Write a backbone as an ONNX file that gives the same table, or as safetensors with its card."""

from torchreid_genext.cli import run, verb

main = verb("export")

if __name__ == "__main__":
    run(main)
