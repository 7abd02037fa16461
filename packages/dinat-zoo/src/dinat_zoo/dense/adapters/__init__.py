"""The backbones in other libraries: import the module of a library that is installed, and its registry has them.

None of these libraries is needed by anything else here.
"""

from __future__ import annotations
