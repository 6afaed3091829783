"""One typed record per file format, with a format number, strict reading and atomic writing; every path of a run."""
