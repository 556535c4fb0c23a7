#!/bin/sh
# On Linux, MLX computes 24 times faster with a system OpenBLAS: install it where that is possible.
[ "$(uname -s)" = Linux ] || exit 0
ldconfig -p 2>/dev/null | grep -q 'libopenblas\.so' && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get install -y -qq libopenblas0-pthread >/dev/null 2>&1 && exit 0
    { apt-get update -qq && apt-get install -y -qq libopenblas0-pthread; } >/dev/null 2>&1 && exit 0
fi
echo "Without OpenBLAS everything works, but slowly. To install it: sudo apt-get install libopenblas0-pthread" >&2
exit 0
