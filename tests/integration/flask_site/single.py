"""A Flask app in one file, and its functions."""

from flask import Flask, current_app

from scaleplug.contrib.flask import ScalePlug

app = Flask(__name__)
app.config["OFFICE"] = "one room"
plug = ScalePlug(app, name="single")


@plug.function()
def look(number: int) -> str:
    return f"{current_app.config['OFFICE']} {number}"


@plug.local_entrypoint()
def main() -> None:
    print(*look.map(range(3)))  # noqa: T201  # as in a script
