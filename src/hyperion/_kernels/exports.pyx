"""A base class whose objects are buffers: Python classes can be that by themselves from Python 3.12 on only."""

from cpython.buffer cimport PyObject_GetBuffer
from cpython.ref cimport Py_DECREF
from libc.string cimport memcpy


cdef class Exporter:
    """Hands the buffer of another object out as its own.

    Attributes
    ----------
    exported : object
        What has the buffer, with dtype, shape and strides; None while there is none.
    """

    cdef public object exported

    def __getbuffer__(self, Py_buffer *view, int flags):
        cdef Py_buffer inner
        if self.exported is None:
            raise BufferError(self.no_buffer())
        PyObject_GetBuffer(self.exported, &inner, flags)
        Py_DECREF(None)  # what view.obj held; the request is redirected: the array's own buffer, released by the array
        memcpy(view, &inner, sizeof(Py_buffer))

    def no_buffer(self):
        """Say why there is none."""
        return "there is no buffer"
