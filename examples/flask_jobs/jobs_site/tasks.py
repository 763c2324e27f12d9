"""What runs in containers, each input in the Flask app's context."""

from PIL import Image

from jobs_site import store
from scaleplug.contrib.flask import ScalePlug

PLACES = {
    "seahorses": (-0.743643887, 0.131825904),
    "elephants": (0.2549870375, -0.0005679790),
    "needle": (-1.7687788, 0.0017389),
}
SIZE = (480, 320)

plug = ScalePlug(name="jobs")


@plug.function(max_containers=4, timeout=600)
def zoom(number: int, place: str, frames: int) -> str:
    """Draw a zoom into the Mandelbrot set and return its file's name; tell how far it is after every frame."""
    drawn = []
    for frame in range(frames):
        drawn.append(draw(*PLACES[place], 1.5 * 0.93**frame))
        store.note_frame(number, frame + 1)
    name = f"{number}.webp"
    drawn[0].save(store.folder() / name, save_all=True, append_images=drawn[1:], duration=60, loop=0, quality=80)
    return name


def draw(x: float, y: float, reach: float) -> Image.Image:
    """Draw one frame."""
    shape = SIZE[1] / SIZE[0]
    grey = Image.effect_mandelbrot(SIZE, (x - reach, y - reach * shape, x + reach, y + reach * shape), 255)
    colours = [(int(255 * (i / 255) ** 0.7), int(255 * (i / 255) ** 1.6), 90 + 165 * i // 255) for i in range(256)]
    picture = grey.convert("P")
    picture.putpalette([value for colour in colours for value in colour])
    return picture.convert("RGB")


@plug.local_entrypoint()
def serve(port: int = 5000) -> None:
    """Serve the site, with all it needs around it."""
    plug.flask_app.run(port=port)
