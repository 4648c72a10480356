"""People, animals, birds and insects: jointed limbs, clothes and coats, with tails, ears, fur and feathers."""

import numpy as np

from .shapes import Points, blob, ellipse, leaves, smooth, spline, tube, vector
from .sketch import Fur, Sketch

__all__ = ["bird", "fish", "insect", "person", "quadruped"]


def chain(start: Points, angles: Points, lengths: Points) -> np.ndarray:
    """Joints of a limb: the start and the ends of its bones; an angle of 0 hangs down, positive swings to +x."""
    angles = np.asarray(angles)
    bones = np.stack([np.sin(angles), np.cos(angles)], axis=-1) * np.asarray(lengths)[..., None]
    return np.concatenate([[start], np.asarray(start) + np.cumsum(bones, axis=0)])


def person(rng: np.random.Generator) -> Sketch:
    """A person in any pose from standing to leaping, dressed, some with a hat, long hair, a skirt, a bag or a stick."""
    sketch = Sketch()
    figure(sketch, rng, seated=False)
    return sketch


def figure(sketch: Sketch, rng: np.random.Generator, seated: bool, at: Points = (0.0, 0.0)) -> None:
    """Draws a person of height about 1.8 with the hip at `at`, seated ones with bent knees and hands to the front."""
    head_group = sketch.group()
    skin, hair = sketch.part("skin", head_group), sketch.part("hair", head_group)
    shirt, trousers, shoes = sketch.part(), sketch.part(), sketch.part("dark")
    build, wild = rng.uniform(0.8, 1.25), rng.choice([0.25, 0.6, 1.0])
    hip = np.asarray(at, np.float64)
    lean = rng.normal(0.35 if seated else 0, 0.2 + 0.15 * wild)
    neck = hip + 0.56 * np.array([np.sin(lean), -np.cos(lean)])
    bare_legs, bare_arms = rng.random(2) < 0.4

    def leg() -> None:
        thigh = rng.normal(1.1, 0.25) if seated else rng.normal(0, 0.5 * wild)
        joints = chain(hip, [thigh, thigh - abs(rng.normal(0.9 if seated else 0, 0.5 * wild))], [0.45, 0.45])
        radii = np.array([0.1, 0.07, 0.045]) * build
        sketch.fill(tube(joints, radii), skin if bare_legs else trousers)
        if bare_legs:
            sketch.fill(tube([joints[0], joints[0] * 0.4 + joints[1] * 0.6], radii[:2] * 1.12), trousers)
        foot = joints[2] + [[0.0, 0.0], [0.16, 0.03]]
        sketch.fill(tube(foot, np.array([0.055, 0.04]) * build), shoes)

    def arm() -> None:
        swing = lean + (rng.normal(0.9, 0.25) if seated else rng.normal(0, 0.9 * wild))
        shoulder = neck * 0.93 + hip * 0.07
        joints = chain(shoulder, [swing, swing + abs(rng.normal(0, 0.7))], [0.31, 0.3])
        radii = np.array([0.065, 0.05, 0.035]) * build
        sketch.fill(tube(joints, radii), skin if bare_arms else shirt)
        if bare_arms:
            sketch.fill(tube(joints[:2] * [[1, 1], [0.6, 0.6]] + [[0, 0], shoulder * 0.4], radii[:2] * 1.15), shirt)
        sketch.fill(ellipse(joints[2], 0.05), skin)
        if rng.random() < 0.15:  # a stick, a racket's handle, a rope
            along = rng.normal(size=2) * rng.uniform(0.3, 1.0)
            sketch.stroke(joints[2] + np.stack([-0.3 * along, along]), shoes, rng.uniform(0.01, 0.04))

    arm()
    leg()
    leg()
    if rng.random() < 0.15:  # a skirt
        hem = chain(hip, [lean - 0.5], [rng.uniform(0.3, 0.75)])[1], chain(hip, [0.6], [rng.uniform(0.3, 0.75)])[1]
        sketch.fill(np.stack([hip + vector(-0.14, -0.06), hip + vector(0.14, -0.06), hem[1], hem[0]]), trousers)
    torso = np.stack([hip, hip * 0.5 + neck * 0.5, neck * 0.85 + hip * 0.15])
    sketch.fill(tube(torso, np.array([0.13, 0.14, rng.uniform(0.13, 0.18)]) * build), shirt)
    if rng.random() < 0.4:  # a bag, a print or a number on the shirt
        sketch.fill(torso[1] + rng.normal(0, 0.04, 2) + blob(rng, 0.2, 24) * 0.08, sketch.part("any"))
    tilt = lean + rng.normal(0, 0.25)
    head = neck + 0.17 * np.array([np.sin(tilt), -np.cos(tilt)])
    if rng.random() < 0.4:  # long hair
        strands = chain(head, [rng.normal(-0.6, 0.5)] * 2, [0.17, 0.17])
        sketch.fill(tube(strands, [0.11, 0.09, 0.03]), hair)
    sketch.fill(tube([neck + vector(0, 0.05), head], 0.06), skin)
    sketch.fill(ellipse(head, (0.1, 0.13), tilt), skin)
    if rng.random() < 0.85:  # hair, a cap or a helmet
        cap = hair if rng.random() < 0.6 else sketch.part("any", head_group)
        sketch.fill(ellipse(head + vector(-0.02, -0.05), (0.115, 0.1), tilt), cap)
    arm()


def quadruped(rng: np.random.Generator) -> Sketch:
    """A dog, horse, cow, deer or cat from the side: its proportions, gait, coat, horns, mane and tail vary."""
    sketch = Sketch()
    coat, belly, dark = sketch.part(), sketch.part(), sketch.part("dark")
    head_group = sketch.group()
    head_part = sketch.part("any", head_group) if rng.random() < 0.3 else coat
    leg_part = belly if rng.random() < 0.3 else coat
    tall, stout, gait = rng.uniform(0.35, 0.95), rng.uniform(0.16, 0.34), rng.choice([0.1, 0.35, 0.7])
    hip, chest = np.array([-0.55, 0.0]), np.array([0.55, rng.normal(-0.03, 0.08)])
    thin = rng.uniform(0.03, 0.09)

    def leg(top: np.ndarray, hind: bool) -> None:
        swing, bend = rng.normal(0, gait), abs(rng.normal(0.3, 0.25)) * (1 if hind else -0.5)
        angles = [swing + 0.5 * bend, swing - bend, swing + rng.normal(0, 0.15)]
        joints = chain(top + vector(0, stout * 0.4), angles, np.array([0.45, 0.35, 0.2]) * tall)
        sketch.fill(tube(joints, [stout * 0.55, thin * 1.4, thin, thin]), leg_part)
        sketch.fill(ellipse(joints[-1] + vector(thin * 0.6, 0), (thin * 1.7, thin)), dark if hind else leg_part)

    leg(hip + vector(0.05, 0), True)
    leg(chest - [0.05, 0], False)
    tail_joints = chain(hip + vector(-0.1, -stout * 0.4), rng.normal([-1.0, -0.6, -0.4], 0.5), [0.2, 0.2, 0.2])
    bushy = rng.uniform(0.015, 0.09)
    sketch.fill(tube(tail_joints, [0.05, bushy, bushy, 0.02]), coat)
    sag = rng.normal(0.04, 0.05)
    middle = (hip + chest) / 2 + vector(0, sag)
    sketch.fill(tube([hip, middle, chest], [stout, stout * rng.uniform(0.75, 1.1), stout]), coat)
    for _ in range(int(rng.choice([0, 0, 2, 5]))):  # patches of a piebald coat
        patch = middle + rng.normal(size=2) * [0.4, stout * 0.5] + blob(rng, 0.3, 32) * rng.uniform(0.05, 0.25)
        sketch.fill(patch, belly, onto=coat)
    leg(hip, True)
    leg(chest, False)

    neck_angle, neck_length = rng.uniform(1.6, 2.9), rng.uniform(0.15, 0.55)
    neck = chain(chest + vector(0.05, -stout * 0.4), [neck_angle], [neck_length])
    skull = rng.uniform(0.1, 0.2)
    sketch.fill(tube(neck, [stout * 0.75, skull * 0.85]), coat)
    if rng.random() < 0.25:  # a mane
        hairs = leaves(np.linspace(neck[0], neck[1], 14), rng.normal(2.4, 0.4, 14), rng.uniform(0.1, 0.25), 0.15)
        sketch.fill(hairs, dark)
    look = rng.normal(1.2, 0.35)
    muzzle = chain(neck[1], [look], [skull * rng.uniform(1.2, 2.4)])
    for side in (-1, 1):
        ear = leaves(neck[1:] + vector(side * 0.05, -skull * 0.6), [-1.57 + side * 0.5], rng.uniform(0.12, 0.35), 0.45)
        sketch.fill(ear, head_part)
        if rng.random() < 0.25:  # horns or antlers
            curve = chain(
                neck[1] + vector(side * 0.03, -skull * 0.7), np.pi + side * rng.uniform(0, 0.9, 2), [0.15] * 2
            )
            sketch.fill(tube(curve, [0.03, 0.02, 0.006]), dark)
    sketch.fill(tube(muzzle, [skull, skull * rng.uniform(0.4, 0.75)]), head_part)
    sketch.fill(ellipse(muzzle[1] + vector(skull * 0.3, 0), skull * 0.22, n=12), dark)
    sketch.fill(ellipse(neck[1] + vector(skull * 0.3, -skull * 0.3), 0.025, n=12), dark)
    if rng.random() < 0.5:
        sketch.fur = Fur(rng.uniform(0.02, 0.09), rng.uniform(1, 3.5), rng.uniform(0.1, 0.4), bare=(dark,))
    return sketch


def bird(rng: np.random.Generator) -> Sketch:
    """A bird on thin legs, swimming or in flight, with feathers at the wings' and the tail's rims."""
    sketch = Sketch()
    body, wing_part, beak = sketch.part(), sketch.part(), sketch.part("vivid")
    head_part = body if rng.random() < 0.5 else sketch.part("any", sketch.group())
    stout = rng.uniform(0.2, 0.4)

    def wing(root: np.ndarray, angle: float, length: float) -> None:
        tips = 13
        spread = rng.uniform(0.3, 1.4)
        bases = root + np.linspace(0, 1, tips)[:, None] * length * 0.6 * [np.cos(angle), np.sin(angle)]
        angles = np.linspace(angle + spread + 0.5, angle, tips)
        sketch.fill(leaves(bases, angles, length * np.linspace(0.4, 0.75, tips), 0.22, 0.6), wing_part)
        sketch.fill(tube([root, bases[-1]], [stout * 0.4, 0.03]), body)

    flying = rng.random() < 0.5
    if flying:
        wing(np.array([0.1, 0.0]), -np.pi / 2 + rng.normal(-0.3, 0.6), rng.uniform(0.9, 1.6))
    elif rng.random() < 0.7:  # legs with toes
        for x in (-0.05, 0.12):
            foot = chain([x, stout * 0.7], rng.normal([0.2, -0.2], 0.2), [0.2, rng.uniform(0.1, 0.6)])
            sketch.stroke(foot, beak, 0.03)
            sketch.stroke(foot[-1] + np.array([[-0.1, 0.02], [0, 0], [0.12, 0.03]]), beak, 0.025)
    fan = rng.uniform(0.05, 0.5)
    tail = leaves(np.tile([-0.4, 0.0], (7, 1)), np.pi + np.linspace(-fan, fan, 7), rng.uniform(0.3, 0.9), 0.16, 0.6)
    sketch.fill(tail, wing_part)
    slope = rng.normal(0, 0.15)
    sketch.fill(tube([[-0.45, slope], [0.0, 0.0], [0.35, -slope]], [0.08, stout, stout * 0.7]), body)
    neck = chain([0.35, -0.05], rng.normal(2.4, 0.4, 3), np.full(3, rng.uniform(0.03, 0.25)))
    sketch.fill(tube(neck, [stout * 0.6, 0.09, 0.07, 0.08]), body)
    sketch.fill(ellipse(neck[-1], (0.13, 0.1), rng.normal(0, 0.2)), head_part)
    sketch.fill(leaves(neck[-1:] + vector(0.08, 0), [rng.normal(0.1, 0.2)], rng.uniform(0.12, 0.4), 0.3), beak)
    sketch.fill(ellipse(neck[-1] + vector(0.05, -0.03), 0.02, n=10), sketch.part("dark"))
    if flying:
        wing(np.array([0.05, 0.0]), rng.choice([-1, 1]) * np.pi / 2 + rng.normal(0.2, 0.6), rng.uniform(0.9, 1.6))
    else:
        sketch.fill(leaves([[0.25, -0.02]] * 3, np.pi + np.array([-0.25, 0.0, 0.2]), 0.75, 0.4, 0.8), wing_part)
    return sketch


def fish(rng: np.random.Generator) -> Sketch:
    """A fish with fins of rays."""
    sketch = Sketch()
    body, fin, stripe = sketch.part(), sketch.part(), sketch.part()
    deep = rng.uniform(0.15, 0.5)
    sway = rng.normal(0, 0.1, 4)
    for base, angle, spread, length in (
        ([-0.75, sway[0]], np.pi, rng.uniform(0.3, 0.9), rng.uniform(0.3, 0.6)),
        ([0.0, -deep * 0.6], -1.9, rng.uniform(0.2, 0.8), rng.uniform(0.2, 0.6)),
        ([0.1, deep * 0.6], 1.9, rng.uniform(0.2, 0.5), rng.uniform(0.1, 0.4)),
    ):
        rays = leaves(np.tile(base, (9, 1)), angle + np.linspace(-spread, spread, 9), length, rng.uniform(0.15, 0.5))
        sketch.fill(rays, fin)
    knots = np.stack([[-0.8, -0.3, 0.3, 0.75], sway], axis=-1)
    sketch.fill(tube(knots, [0.06, deep * 0.9, deep, deep * 0.3]), body)
    for x in rng.uniform(-0.6, 0.5, rng.integers(0, 6)):
        sketch.fill(tube([[x, -1.0], [x + 0.1, 1.0]], rng.uniform(0.02, 0.07)), stripe, onto=body)
    sketch.fill(ellipse([0.55, sway[3] - deep * 0.2], 0.05, n=14), sketch.part("light"))
    sketch.fill(ellipse([0.56, sway[3] - deep * 0.2], 0.025, n=10), sketch.part("dark"))
    return sketch


def insect(rng: np.random.Generator) -> Sketch:
    """A beetle, fly or spider: thin jointed legs and feelers about a body of two or three parts."""
    sketch = Sketch()
    body, leg = sketch.part(), sketch.part("dark")
    pairs, reach = int(rng.choice([3, 4])), rng.uniform(0.6, 1.3)
    for side in (-1, 1):
        for place in np.linspace(-0.3, 0.35, pairs):
            knee = np.array([place * 2.2 + rng.normal(0, 0.08), side * reach * 0.55])
            foot = np.array([place * 3.2 + rng.normal(0, 0.1), side * reach])
            sketch.stroke(spline([[place, 0], knee, foot], 3), leg, rng.uniform(0.02, 0.05))
        feeler = spline([[0.5, side * 0.08], [0.9, side * 0.2], [1.1 + rng.random() * 0.4, side * 0.4]])
        sketch.stroke(feeler, leg, 0.02)
        if rng.random() < 0.35:
            wings = leaves([[0.1, 0.0]] * 2, side * np.array([1.2, 2.1]) + rng.normal(0, 0.2, 2), 1.1, 0.5, 0.7)
            sketch.fill(wings, sketch.part("light" if rng.random() < 0.5 else "any"))
    sketch.fill(ellipse([-0.45, 0], (rng.uniform(0.3, 0.6), rng.uniform(0.15, 0.35))), body)
    sketch.fill(ellipse([0.2, 0], (0.25, 0.2)), sketch.part() if rng.random() < 0.5 else body)
    sketch.fill(smooth([[0.4, -0.12], [0.65, -0.08], [0.65, 0.08], [0.4, 0.12]]), leg)
    return sketch
