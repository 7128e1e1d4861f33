"""A waving figure and its pose, for pose estimation."""

import numpy as np
from PIL import Image, ImageDraw

LIMBS = (  # from joint to joint, width in parts of the height, colour of its clothes, colour in the pose
    ("hip", "left knee", 0.075, (52, 60, 92), (0, 200, 90)),
    ("left knee", "left foot", 0.06, (52, 60, 92), (0, 150, 60)),
    ("hip", "right knee", 0.075, (60, 68, 104), (0, 190, 255)),
    ("right knee", "right foot", 0.06, (60, 68, 104), (0, 120, 230)),
    ("neck", "hip", 0.13, (196, 74, 60), (255, 0, 80)),
    ("neck", "left elbow", 0.05, (182, 66, 54), (255, 200, 0)),
    ("left elbow", "left hand", 0.042, (226, 178, 146), (200, 230, 0)),
    ("neck", "right elbow", 0.05, (182, 66, 54), (255, 120, 0)),
    ("right elbow", "right hand", 0.042, (226, 178, 146), (255, 70, 0)),
)
LENGTHS = {"knee": 0.21, "foot": 0.21, "elbow": 0.15, "hand": 0.15}


def figure(seed: int, size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    """Return the images of a figure and of its pose. Both are of ``size`` (width, height) in pixels."""
    rng = np.random.default_rng(seed)
    unit = size[1] * 0.88
    joints = {"hip": np.array([size[0] / 2, size[1] * 0.52])}
    joints["neck"] = joints["hip"] + unit * 0.27 * np.array(
        [np.sin(lean := rng.uniform(-0.15, 0.15)), -np.cos(lean)]
    )
    for side, sign in (("left", -1), ("right", 1)):
        leg, arm = rng.uniform(0.05, 0.4) * sign, rng.uniform(0.3, 2.6) * sign
        bends = {"knee": leg, "foot": leg * 0.3, "elbow": arm, "hand": arm + rng.uniform(-0.9, 0.9)}
        for start, (name, angle) in zip(("hip", "knee", "neck", "elbow"), bends.items(), strict=True):
            before = joints[start if start in joints else f"{side} {start}"]
            joints[f"{side} {name}"] = before + unit * LENGTHS[name] * np.array(
                [np.sin(angle), np.cos(angle)]
            )
    body, pose = Image.new("RGB", size, (214, 222, 216)), Image.new("RGB", size)
    pens = ImageDraw.Draw(body), ImageDraw.Draw(pose)
    head = joints["neck"] + unit * np.array([0, -0.09])
    for a, b, share, cloth, colour in LIMBS:
        ends = [tuple(joints[a]), tuple(joints[b])]
        pens[0].line(ends, fill=cloth, width=max(2, round(share * unit)))
        for x, y in ends:
            r = share * unit / 2
            pens[0].ellipse((x - r, y - r, x + r, y + r), fill=cloth)
        pens[1].line(ends, fill=colour, width=max(2, round(0.02 * unit)))
    for pen, r, fill in ((pens[0], 0.075 * unit, (226, 178, 146)), (pens[1], 0.03 * unit, (255, 255, 255))):
        pen.ellipse((head[0] - r, head[1] - r, head[0] + r, head[1] + r), fill=fill)
    return body, pose
