"""DICOM files as pictures.

header.py   bytes -> a data set, within bounds; what a picture's header says
apart.py    a decoder that may crash, in a process apart
frames.py   the values of a frame, decoded
pixels.py   a frame -> an upright RGB picture
window.py   which values become black and white
turn.py     how a frame is turned by the patient's position
view.py     which view a picture shows
private.py  salted hashes in place of who and when, and which tags a file has
named.py    whether a text names the patient
text.py     letters burned into a picture's corners: a guess

Every error is told in words of our own: what pydicom says of a file may quote a name or a date in it.
"""

from vglm_train.image.dicom.header import Header, is_dicom, read_header
from vglm_train.image.dicom.pixels import Rendered, render
from vglm_train.image.dicom.window import Window, parse_window

__all__ = ["Header", "Rendered", "Window", "is_dicom", "parse_window", "read_header", "render"]
