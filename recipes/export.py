"""Writes an encoder for other programs, and checks that they give its embeddings.

python recipes/export.py runs/supervised --out exported
python recipes/export.py runs/supervised --out exported --prompts.query "Find the page: "
python recipes/export.py runs/supervised --out exported-onnx --format onnx --int8
"""

from typing import get_args

from llm2vec_pl.encoder import Dtype
from llm2vec_pl.errors import user_errors
from llm2vec_pl.training import Help, Parser, silence_noise
from llm2vec_pl.use.export import Format, export_encoder

if __name__ == "__main__":
    silence_noise()
    parser = Parser(description=__doc__, formatter_class=Help)
    parser.add_argument("encoder", type=str, help="a run, a folder or a name on the hub")
    parser.add_argument("--out", type=str, required=True, help="the folder to write")
    parser.add_argument(
        "--format",
        choices=get_args(Format),
        default="sentence-transformers",
        help="a folder for sentence-transformers and serving programs, or an ONNX model",
    )
    parser.add_argument(
        "--int8", action="store_true", help="round the weights of an ONNX model to 8 bits"
    )
    parser.add_argument(
        "--dtype", choices=get_args(Dtype), help="of the weights; the encoder's own by default"
    )
    parser.add_argument(
        "--prompts",
        type=dict[str, str] | None,
        help="instructions by name, such as --prompts.query; they replace the encoder's own",
    )
    parser.add_argument(
        "--push_to_hub",
        type=str,
        help="ORG/NAME: upload the folder there; a new repository is private",
    )
    with user_errors():
        flags = parser.parse_args()
        export_encoder(
            flags.encoder,
            flags.out,
            flags.format,
            flags.int8,
            flags.dtype,
            flags.prompts,
            flags.push_to_hub,
            report=print,
        )
