"""The smallest example: `scaleplug run examples/hello.py --upto 100`."""

import scaleplug

app = scaleplug.App("hello")


@app.function()
def square(x):
    return x * x


@app.local_entrypoint()
def main(upto: int = 10):
    print(sum(square.map(range(upto))))
