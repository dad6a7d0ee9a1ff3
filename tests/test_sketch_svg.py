import math

import numpy as np
import pytest
from refusals import message

from jaxrnn.data.sketch_svg import read_svg
from jaxrnn.data.strokes import to_lines


@pytest.fixture
def svg(tmp_path):
    def write(content: str | bytes) -> str:
        path = tmp_path / "cat.svg"
        if isinstance(content, str):
            content = f'<svg xmlns="http://www.w3.org/2000/svg">\n{content}\n</svg>'.encode()
        path.write_bytes(content)
        return str(path)

    return write


def lines(path, epsilon=0.0) -> list[list]:
    return [np.round(line, 4).tolist() for line in to_lines(read_svg(path, epsilon))]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ('<path d="M1 2L3 4M5 6z"/>', [[[1, 2], [3, 4]], [[5, 6]]]),
        ('<polyline points="1,2 3,4 5,6"/>', [[[1, 2], [3, 4], [5, 6]]]),
        ('<polygon points="1 2,3 4,5 2"/>', [[[1, 2], [3, 4], [5, 2], [1, 2]]]),
        ('<line x1="1" y1="2" x2="3"/>', [[[1, 2], [3, 0]]]),
        (
            '<rect x="1" y="2px" width="3" height=" 4 "/>',
            [[[1, 2], [4, 2], [4, 6], [1, 6], [1, 2]]],
        ),
        ('<polyline points="1,2 3,4"/><path/><path d="M0 0L1 1"/>', [[[1, 2], [3, 4]],
                                                                   [[0, 0], [1, 1]]]),
    ],
)  # fmt: skip
def test_shapes_of_lines(svg, shape, expected):
    assert lines(svg(shape)) == expected


def test_circles_and_ellipses_are_closed(svg):
    for shape, size in (
        ('<circle cx="50" cy="60" r="40"/>', (40, 40)),
        ('<ellipse cx="50" cy="60" rx="40" ry="10"/>', (40, 10)),
    ):
        (line,) = to_lines(read_svg(svg(shape), 0.0))
        np.testing.assert_allclose(line[0], [10, 60], atol=1e-4)
        np.testing.assert_allclose(line[-1], [10, 60], atol=1e-4)
        np.testing.assert_allclose(np.hypot(*((line - [50, 60]) / size).T), 1, atol=1e-3)
        assert np.ptp(line, axis=0) == pytest.approx(np.multiply(2, size), rel=0.01)


def test_rounded_corners(svg):
    for corners in ('rx="10"', 'ry="10"', 'rx="10" ry="10"'):
        (line,) = to_lines(read_svg(svg(f'<rect width="100" height="60" {corners}/>'), 0.0))
        np.testing.assert_array_equal(line[:2], [[10, 0], [90, 0]])
        np.testing.assert_allclose(line[-1], [10, 0], atol=1e-4)
        inside = np.abs(line - [50, 30]) - [40, 20]
        corner = line[(inside > 0.001).all(axis=1)]
        assert len(corner) > 8
        np.testing.assert_allclose(np.hypot(*inside[(inside > 0.001).all(axis=1)].T), 10, atol=0.01)
    (line,) = to_lines(read_svg(svg('<rect width="100" height="60" rx="999"/>'), 0.0))
    np.testing.assert_allclose(line[0], [50, 0], atol=1e-4)


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        ("translate(10)", [11, 2]),
        ("translate(10, 20)", [11, 22]),
        ("scale(3)", [3, 6]),
        ("scale(3 -1)", [3, -2]),
        ("rotate(90)", [-2, 1]),
        ("rotate(90 10 20)", [28, 11]),
        ("skewX(45)", [3, 2]),
        ("skewY(45)", [1, 3]),
        ("matrix(1 2 3 4 5 6)", [12, 16]),
        ("translate(10 20) scale(2)", [12, 24]),
        ("scale(2),translate(10,20)", [22, 44]),
        ("", [1, 2]),
    ],
)
def test_transforms(svg, transform, expected):
    (line,) = lines(svg(f'<path transform="{transform}" d="M0 0L1 2"/>'))
    assert line[1] == pytest.approx(expected, abs=1e-4)


def test_transforms_are_nested_and_end_with_their_group(svg):
    path = svg(
        '<g transform="translate(10)"><g transform="scale(2)"><path d="M0 0h1"/></g>'
        '<polyline points="0 0 1 0"/></g><path d="M0 0h1"/>'
    )
    assert lines(path) == [[[10, 0], [12, 0]], [[10, 0], [11, 0]], [[0, 0], [1, 0]]]
    curve = svg('<g transform="rotate(45)"><circle r="2" cx="5"/></g>')
    (line,) = to_lines(read_svg(curve, 0.0))
    center = 5 * math.sqrt(0.5)
    np.testing.assert_allclose(np.hypot(*(line - [center, center]).T), 2, atol=1e-3)


def test_epsilon_is_in_255ths_of_the_longer_side(svg):
    counts = []
    for size in (1, 100):
        path = svg(f'<circle r="{size}"/><path d="M0 0h{size}h-{2 * size}"/>')
        circle, line = to_lines(read_svg(path, 2.0))
        assert len(line) == 3
        counts.append(len(circle))
        assert np.hypot(*circle.T).min() == pytest.approx(size, rel=0.02)
    assert counts == [33, 33]
    assert len(to_lines(read_svg(path, 0.0))[0]) > 60


@pytest.mark.parametrize(("epsilon", "num_points"), [(7.6, 3), (7.7, 2)])
def test_a_curve_is_simplified_by_its_distance(svg, epsilon, num_points):
    # 100 wide, 3 high in the middle: 7.65 of 255ths.
    assert len(read_svg(svg('<path d="M0 0C0 4 100 4 100 0"/>'), epsilon)) == num_points


def test_a_curve_without_size_is_not_divided(svg):
    assert lines(svg('<path d="M1 2C1 2 1 2 1 2"/>')) == [[[1, 2], [1, 2]]]


def test_what_is_not_drawn_is_passed_over(svg):
    path = svg(
        "<title>a</title><defs><path d='M0 0h1'/><g transform='bad'><path d='bad'/></g></defs>"
        "<clipPath><rect width='9' height='9'/></clipPath><text>b</text>"
        "<circle r='0'/><circle r='-1'/><rect width='1'/>"
        "<symbol><svg/></symbol><use href='#a'/><polyline points=' '/>"
        "<path d='M5 6h1'><animate attributeName='x'/></path>"
    )
    assert lines(path) == [[[5, 6], [6, 6]]]


def test_prefixes_encodings_and_comments(svg):
    content = (
        '<?xml version="1.0" encoding="{}"?><!-- é --><s:svg xmlns:s="http://www.w3.org/2000/svg">'
        '<s:path id="é" d="M1 2h3"/></s:svg>'
    )
    for encoding in ("utf-8", "utf-16", "iso-8859-1"):
        path = svg(content.format(encoding).encode(encoding))
        assert lines(path) == [[[1, 2], [4, 2]]]
    path = svg(content.format("gb2312").encode())
    assert message(read_svg, path, 0.0).startswith(f"{path}")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_type_is_refused(svg, encoding):
    text = f'<?xml version="1.0" encoding="{encoding}"?>\n<!DOCTYPE svg [<!ENTITY a "M0 0h1">]>'
    path = svg((text + '<svg><path d="&a;"/></svg>').encode(encoding))
    assert message(read_svg, path, 0.0) == (
        f"{path}, line 2: a document type, which may define entities, expected none; remove the"
        " declaration <!DOCTYPE ...>"
    )


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"<svg><path", "line 1: not XML (unclosed token), expected an SVG file"),
        (b"<svg>\n<path/>", "line 2: not XML (no element found)"),
        (b"<svg>\n&a;</svg>", "line 2: not XML (undefined entity)"),
        (b"hello", "line 1: not XML (syntax error)"),
        (b"<html/>", "line 1: the element 'html' at the top, expected one svg, at the top"),
        ('<svg viewBox="0 0 1 1"/>', "line 2: the element 'svg' inside another, expected one svg"),
        ('\n<path d="M1 2L3"/>', "line 3: 1 numbers follow 'L' in a path"),
        ('<circle r="10%"/>', "line 2: r is '10%', expected a number without a unit"),
        ('<rect width="nan" height="2"/>', "line 2: width is 'nan', expected a number"),
        ('<g transform="translate(1"/>', "line 2: the transform 'translate(1' can't be read"),
        ('<g transform="spin(1)"/>', "line 2: the transform 'spin' with 1 numbers, expected"),
        ('<g transform="rotate(1 2)"/>', "line 2: the transform 'rotate' with 2 numbers"),
        ('<g transform="scale(a)"/>', "line 2: 'a' where a path command or a number was"),
    ],
)
def test_bad_files_are_named_with_their_line(svg, content, expected):
    path = svg(content)
    assert message(read_svg, path, 0.0).startswith(f"{path}, {expected}")


def test_files_that_draw_nothing_or_too_much(svg, tmp_path):
    path = svg('<image href="a.png"/><path d="M1 2"/>')
    assert message(read_svg, path, 0.0) == (
        f"{path} draws nothing, expected paths; is it an image in an SVG file?"
    )
    path = svg('<g transform="scale(1e9)">' * 40 + '<path d="M0 0L1 1L-1 0"/>' + "</g>" * 40)
    assert message(read_svg, path, 0.0).startswith(f"{path} draws beyond 1e+09, expected less")
    assert "no such file" in message(read_svg, tmp_path / "b.svg", 0.0)
