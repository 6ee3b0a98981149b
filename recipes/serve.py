"""Serves an encoder's embeddings as OpenAI's API does, and a page to try it.

python recipes/serve.py tiny
LLM2VEC_PL_API_KEY=secret python recipes/serve.py runs/simcse --host 0.0.0.0 --port 8001
"""

if __name__ == "__main__":
    # Here, because the process that encodes imports this file and needs none of it.
    from llm2vec_pl.errors import user_errors
    from llm2vec_pl.training import Help, Parser, silence_noise
    from llm2vec_pl.use.server import serve

    silence_noise()
    parser = Parser(description=__doc__, formatter_class=Help)
    parser.add_function_arguments(serve, as_positional=True)
    with user_errors():
        serve(**parser.parse_args().as_dict())
