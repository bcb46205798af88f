"""One pair of cameras, written by hand in every format that users bring.

Frame 0 stands at (1, 2, 3) and looks along world +x, its right is world -z, its down world
+y. Frame 1 is the identity. Images are 128 wide and 96 high; `K = [[80, 0, 70], [0, 96, 45], [0, 0, 1]]`.
The point (5, 2.5, 2) is 4 ahead of frame 0, 1 to its right and 0.5 below it: it is seen at pixel (90, 57).
The numbers below are worked out on paper, not with the code under test.
"""

import json
import struct

import numpy as np
import PIL.Image

HEIGHT, WIDTH = 96, 128
INTRINSICS = np.array([[80.0, 0.0, 70.0], [0.0, 96.0, 45.0], [0.0, 0.0, 1.0]])
CAM2WORLD = np.array(
    [
        [[0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]],
        np.eye(4),
    ],
    np.float64,
)
WORLD2CAM = np.array(
    [
        [[0, 0, -1, 3], [0, 1, 0, -2], [1, 0, 0, -1], [0, 0, 0, 1]],
        np.eye(4),
    ],
    np.float64,
)
OPENGL = np.array(
    [
        [[0, 0, -1, 1], [0, -1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]],
        np.diag([1, -1, -1, 1]),
    ],
    np.float64,
)
HALF = 0.7071067811865476
QUATERNIONS = [(HALF, 0.0, -HALF, 0.0, 3.0, -2.0, -1.0), (1.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)]
POINT, PIXEL, DEPTH = (5.0, 2.5, 2.0), (90.0, 57.0), 4.0


def realestate(folder):
    rows = ["https://example.org/video"]
    for time, pose in zip((33000, 66000), WORLD2CAM, strict=True):
        values = [80 / 128, 96 / 96, 70 / 128, 45 / 96, 0, 0, *pose[:3].ravel()]
        rows.append(" ".join([str(time), *(f"{x:.9f}" for x in values)]))
    (folder / "clip.txt").write_text("\n".join(rows) + "\n")
    return folder / "clip.txt"


def spatia(folder):
    PIL.Image.new("RGB", (WIDTH, HEIGHT)).save(folder / "img.jpg")
    (folder / "intrinsics.txt").write_text(f"[{80 / 128} {96 / 96} {70 / 128} {45 / 96}]")
    (folder / "w2c.txt").write_text("".join(f"{pose.tolist()}\n" for pose in WORLD2CAM))
    (folder / "prompt.txt").write_text("a corridor\nwith doors\n")
    return folder


def nerfstudio(folder):
    # Written last frame first, and frame 10 after frame 9: the order is that of the names, as numbers.
    frames = [{"file_path": f"frame_{9 + i}.png", "transform_matrix": OPENGL[i].tolist()} for i in (1, 0)]
    content = {"camera_model": "OPENCV", "fl_x": 80, "fl_y": 96, "cx": 70, "cy": 45, "w": WIDTH, "h": HEIGHT, "k1": 0.0}
    (folder / "transforms.json").write_text(json.dumps(content | {"frames": frames}))
    return folder / "transforms.json"


def colmap_text(folder):
    (folder / "cameras.txt").write_text("# cameras\n7 PINHOLE 128 96 80 96 70 45\n")
    rows = ["# images"]
    for number, i in enumerate((1, 0)):
        pose = " ".join(map(str, QUATERNIONS[i]))
        rows += [f"{number} {pose} 7 walk {9 + i}.jpg", "" if i else "10.5 20.5 -1 11.0 21.0 3"]
    (folder / "images.txt").write_text("\n".join(rows) + "\n")
    return folder


def colmap_binary(folder):
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.bin").write_bytes(struct.pack("<QiiQQ4d", 1, 7, 1, WIDTH, HEIGHT, 80, 96, 70, 45))
    images = struct.pack("<Q", 2)
    for number, i in enumerate((1, 0)):
        images += struct.pack("<i7di", number, *QUATERNIONS[i], 7) + f"walk {9 + i}.jpg".encode() + b"\0"
        images += struct.pack("<Q", i) + struct.pack("<ddq", 10.5, 20.5, -1) * i
    (model / "images.bin").write_bytes(images)
    return folder


def vipe(folder):
    for name, data in (("pose", CAM2WORLD), ("intrinsics", np.tile([80.0, 96.0, 70.0, 45.0], (2, 1)))):
        np.savez(folder / f"{name}.npz", inds=np.array([8, 3]), data=data[::-1].astype(np.float32))
    return folder


def vipe_native(folder):
    for name, data in (("pose", CAM2WORLD), ("intrinsics", np.tile([80.0, 96.0, 70.0, 45.0], (2, 1)))):
        (folder / name).mkdir()
        np.savez(folder / name / "walk.npz", inds=np.arange(2), data=data)
    return folder / "pose" / "walk.npz"


def release(folder):
    np.savez(
        folder / "geometry.npz",
        frames=np.zeros((2, HEIGHT, WIDTH, 3), np.uint8),
        depths=np.full((2, HEIGHT, WIDTH), 4.0, np.float32),
        masks=np.ones((2, HEIGHT, WIDTH), bool),
        intrinsics=np.tile(INTRINSICS, (2, 1, 1)).astype(np.float32),
        poses_c2w=CAM2WORLD.astype(np.float32),
        original_size=np.array([HEIGHT, WIDTH]),
        processed_size=np.array([-1, -1]),
    )
    return folder / "geometry.npz"


FORMATS = {
    "RealEstate10K": realestate,
    "Spatia": spatia,
    "nerfstudio": nerfstudio,
    "COLMAP model (text)": colmap_text,
    "COLMAP model (binary)": colmap_binary,
    "ViPE": vipe,
    "ViPE results": vipe_native,
    "PyTorch release": release,
}
