"""What engines do to the process that they run in."""

import subprocess
import sys

import pytest

STACK = """
import ctypes, gc
from leandet.cost.roofline import _product_openvino

class Stack(ctypes.Structure):
    _fields_ = [("start", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t)]

def usable():
    stack = Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(stack)) == 0
    spans = [line.split()[0].split("-") for line in open("/proc/self/maps")]
    return not stack.start or any(int(low, 16) <= stack.start < int(high, 16) for low, high in spans)

first, second = _product_openvino(1), _product_openvino(1)
assert usable()
del first
gc.collect()
del second
gc.collect()
assert usable(), "the stack for signals is gone"
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_openvino_leaves_a_stack_for_signals():
    pytest.importorskip("openvino")
    done = subprocess.run([sys.executable, "-c", STACK], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
