"""Draws a MiniWorld room: picture, exact z-depth and which moving object is seen, in one pass.

Importing this module loads MiniWorld and opens a drawing context without a display (EGL), so only what renders does.
Each pixel is the mean of 3x3 drawn ones, and its depth that of the middle one, so that depth belongs to the centre of
the pixel. What moves is drawn last and marks the pixels it covers with its number in the stencil buffer.
"""

from __future__ import annotations

import ctypes
import os

import numpy as np
from PIL import Image

from experiments.worlds.clips import FOCAL
from experiments.worlds.miniworld.scenes import Mover, Prop, RoomPlan, Scene
from mirage_jax.errors import UserError

_INSTALL = "on Debian and Ubuntu run: sudo apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri libglu1-mesa"

os.environ["PYGLET_HEADLESS"] = "1"  # read once, when the packages are imported
os.environ["PYOPENGL_PLATFORM"] = "egl"
try:
    import pyglet

    pyglet.options["headless"] = True
    from miniworld import entity
    from miniworld.miniworld import Room
    from pyglet import gl
except ModuleNotFoundError as error:
    raise UserError(
        f"MiniWorld is not installed ({error}); install the extra with: pip install 'mirage-jax[data]'"
    ) from error
except (ImportError, OSError) as error:  # of a system library
    raise UserError(f"MiniWorld cannot draw here ({error}); {_INSTALL}") from error

NEAR, FAR = 0.1, 100.0  # metres
_OVER = 3  # drawn pixels along a side of an output pixel; odd, so that one lies in the middle
_MIDDLE = slice(_OVER // 2, None, _OVER)


def _with_alpha(path: str) -> pyglet.image.ImageData:
    """A picture as MiniWorld asks for it, which pyglet would make pixel by pixel, longer than all else takes."""
    with Image.open(path) as picture:
        rgba = picture.convert("RGBA").transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return pyglet.image.ImageData(*rgba.size, "RGBA", rgba.tobytes())


pyglet.image.load = _with_alpha


class Canvas:
    """Draws one scene after the other at one size.

    Args:
      size: side of the square frames, pixels.
    """

    def __init__(self, size: int):
        self.size = size
        try:
            self._window = pyglet.window.Window(width=1, height=1, visible=False)
        except Exception as error:  # pyglet raises what it finds: no EGL device, no configuration, no such function
            raise UserError(f"MiniWorld cannot draw here ({type(error).__name__}: {error}); {_INSTALL}") from error
        self._buffer = _frame_buffer(size * _OVER)
        self._still, self._movers = gl.glGenLists(1), []

    def load(self, scene: Scene) -> None:
        """Makes a scene the one that is drawn."""
        self._window.switch_to()
        self._sky = scene.sky
        rng = np.random.default_rng(scene.seed)  # of the variants of textures
        rooms = [_room(plan, rng) for plan in scene.rooms]
        props = [_entity(prop) for prop in scene.props]
        gl.glNewList(self._still, gl.GL_COMPILE)
        _light(scene)
        for room in rooms:
            gl.glEnable(gl.GL_TEXTURE_2D)
            room._render()
        for prop in props:
            prop.render()
        gl.glEndList()
        self._movers = [_entity(mover.shape) for mover in scene.movers]

    def draw(
        self, eye: np.ndarray, heading: float, pitch: float, movers: list[Mover], frame: int
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Draws one view.

        Args:
          eye: `[3]` metres, y up.
          heading, pitch: radians; heading is counter-clockwise from +x seen from above (-z is to the left), pitch up.
          movers: those of the loaded scene, or none, where they are at `frame`.
          frame: number of the frame.

        Returns:
          Picture uint8 `[size, size, 3]`; z-depth float64 `[size, size]` in metres, inf where nothing is; numbers of
          the movers uint8 `[size * 3, size * 3]`, 0 where none is.
        """
        self._window.switch_to()
        gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, self._buffer)
        side = self.size * _OVER
        gl.glViewport(0, 0, side, side)
        for feature in (gl.GL_DEPTH_TEST, gl.GL_CULL_FACE, gl.GL_STENCIL_TEST, gl.GL_NORMALIZE):
            gl.glEnable(feature)
        gl.glClearColor(*self._sky, 1.0)
        gl.glClearDepth(1.0)
        gl.glClearStencil(0)
        gl.glClear(gl.GL_COLOR_BUFFER_BIT | gl.GL_DEPTH_BUFFER_BIT | gl.GL_STENCIL_BUFFER_BIT)
        gl.glMatrixMode(gl.GL_PROJECTION)
        gl.glLoadIdentity()
        edge = NEAR / (2 * FOCAL)
        gl.glFrustum(-edge, edge, -edge, edge, NEAR, FAR)
        gl.glMatrixMode(gl.GL_MODELVIEW)
        gl.glLoadIdentity()
        forward = np.array([np.cos(heading) * np.cos(pitch), np.sin(pitch), -np.sin(heading) * np.cos(pitch)])
        gl.gluLookAt(*eye, *(eye + forward), 0.0, 1.0, 0.0)

        gl.glStencilOp(gl.GL_KEEP, gl.GL_KEEP, gl.GL_REPLACE)
        gl.glStencilFunc(gl.GL_ALWAYS, 0, 0xFF)
        gl.glCallList(self._still)
        for number, (mover, drawn) in enumerate(zip(movers, self._movers, strict=False), start=1):
            gl.glStencilFunc(gl.GL_ALWAYS, number, 0xFF)
            drawn.pos, drawn.dir = mover.positions[frame], float(mover.angles[frame])
            drawn.render()

        colour = self._read(gl.GL_RGB, gl.GL_UNSIGNED_BYTE, np.uint8, 3)
        buffer = self._read(gl.GL_DEPTH_COMPONENT, gl.GL_FLOAT, np.float32)[_MIDDLE, _MIDDLE].astype(np.float64)
        numbers = self._read(gl.GL_STENCIL_INDEX, gl.GL_UNSIGNED_BYTE, np.uint8)
        depth = np.where(buffer < 1, FAR * NEAR / (FAR - buffer * (FAR - NEAR)), np.inf)
        blocks = colour.reshape(self.size, _OVER, self.size, _OVER, 3).astype(np.uint16).sum(axis=(1, 3))
        return ((blocks + _OVER**2 // 2) // _OVER**2).astype(np.uint8), depth, numbers

    def _read(self, what: int, kind: int, dtype: type, channels: int = 1) -> np.ndarray:
        side = self.size * _OVER
        values = np.empty((side, side, channels), dtype)
        gl.glPixelStorei(gl.GL_PACK_ALIGNMENT, 1)
        gl.glReadPixels(0, 0, side, side, what, kind, values.ctypes.data_as(ctypes.c_void_p))
        return values[::-1] if channels > 1 else values[::-1, :, 0]


def any_of(mask: np.ndarray) -> np.ndarray:
    """`[H, W]` of drawn pixels `[3 H, 3 W]`: the largest under each output pixel."""
    rows, columns = mask.shape
    return mask.reshape(rows // _OVER, _OVER, columns // _OVER, _OVER).max(axis=(1, 3))


def _frame_buffer(side: int) -> int:
    """A buffer of colour, 24 bits of depth and 8 of stencil, `side` pixels square."""
    names = (gl.GLuint * 3)()
    gl.glGenFramebuffers(1, ctypes.cast(ctypes.byref(names, 0), ctypes.POINTER(gl.GLuint)))
    gl.glGenRenderbuffers(2, ctypes.cast(ctypes.byref(names, 4), ctypes.POINTER(gl.GLuint)))
    buffer, colour, depth = names
    gl.glBindFramebuffer(gl.GL_FRAMEBUFFER, buffer)
    for name, form, place in (
        (colour, gl.GL_RGBA8, gl.GL_COLOR_ATTACHMENT0),
        (depth, gl.GL_DEPTH24_STENCIL8, gl.GL_DEPTH_STENCIL_ATTACHMENT),
    ):
        gl.glBindRenderbuffer(gl.GL_RENDERBUFFER, name)
        gl.glRenderbufferStorage(gl.GL_RENDERBUFFER, form, side, side)
        gl.glFramebufferRenderbuffer(gl.GL_FRAMEBUFFER, place, gl.GL_RENDERBUFFER, name)
    state = gl.glCheckFramebufferStatus(gl.GL_FRAMEBUFFER)
    if state != gl.GL_FRAMEBUFFER_COMPLETE:
        raise UserError(
            f"OpenGL of this machine has no buffer of {side}x{side} pixels with depth and stencil ({state:#x})"
        )
    return buffer


def _light(scene: Scene) -> None:
    """One lamp that hangs in the world, as MiniWorld has it."""
    four = gl.GLfloat * 4
    gl.glLightfv(gl.GL_LIGHT0, gl.GL_POSITION, four(*scene.lamp, 1.0))
    gl.glLightfv(gl.GL_LIGHT0, gl.GL_AMBIENT, four(*[scene.ambient] * 3, 1.0))
    gl.glLightfv(gl.GL_LIGHT0, gl.GL_DIFFUSE, four(*[scene.diffuse] * 3, 1.0))
    gl.glEnable(gl.GL_LIGHTING)
    gl.glEnable(gl.GL_LIGHT0)
    gl.glShadeModel(gl.GL_SMOOTH)
    gl.glEnable(gl.GL_COLOR_MATERIAL)
    gl.glColorMaterial(gl.GL_FRONT_AND_BACK, gl.GL_AMBIENT_AND_DIFFUSE)


def _room(plan: RoomPlan, rng: np.random.Generator) -> Room:
    """The drawable room of a plan, its textures loaded."""
    room = Room(
        plan.outline,
        wall_height=plan.height,
        wall_tex=plan.wall,
        floor_tex=plan.floor,
        ceil_tex=plan.ceiling or "concrete",
        no_ceiling=not plan.ceiling,
    )
    for door in plan.doors:
        room.add_portal(door.wall, start_pos=door.start, end_pos=door.end, max_y=door.height)
    room._gen_static_data(None, rng)
    return room


def _entity(prop: Prop) -> entity.Entity:
    """The drawable thing of a prop."""
    if prop.mesh:
        made = entity.MeshEnt(prop.mesh, prop.size[1])
    else:
        made = entity.Box("grey", size=np.array(prop.size))
        made.color_vec = np.array(prop.colour)
    made.pos, made.dir = np.array(prop.position), prop.angle
    return made
