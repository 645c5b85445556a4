# One image for all roles; compose.yaml has the command of each. It contains Python, the libraries that it loads, the
# packages and the code: no shell and no package manager.
FROM python:3.11-slim AS packages
WORKDIR /build
COPY pyproject.toml constraints.txt ./
# Installed before the code is copied, so a change of the code installs nothing. Redis runs in a container of its own.
# Left out of the packages: their tests and headers, and the second of zstandard's two implementations.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" \
      | grep -v lite > needed.txt \
    && python -m pip install --no-cache-dir --constraint constraints.txt --target /packages --requirement needed.txt \
    && python -m pip install --no-cache-dir --constraint constraints.txt --target /hatchling 'hatchling>=1.27' \
    && find /packages \( -path '*/tests' -o -path '*/include' -o -name f2py -o -name '_cffi.*.so' -o -name '*.pyi' \) \
      -prune -exec rm -r {} +
# The files of the image: Python, the system's shared libraries that it and the packages need, certificates, user names.
RUN python=$(command -v python) && library=$(python -c "import sysconfig; print(sysconfig.get_path('stdlib'))") \
    && python -m compileall -q -x '/(test|lib2to3)/' "$library" \
    && ldd "$python" > linked.txt && find "$library" /packages -name '*.so*' -exec ldd {} + >> linked.txt \
    && if grep 'not found' linked.txt; then exit 1; fi \
    && grep -o '/[^ :]*' linked.txt | grep -v ^/packages | sort -u > needed.txt \
    && find "$library" \( -name test -o -name idlelib -o -name ensurepip -o -name site-packages -o -name 'config-*' \) \
      -prune -o -type f -print >> needed.txt \
    && printf '%s\n' "$python" /etc/ssl/certs/ca-certificates.crt /etc/ld.so.cache /etc/passwd >> needed.txt \
    && mkdir -p -m 1777 /image/tmp && tar -c -h -f - -T needed.txt | tar -x -C /image \
    && mkdir -m 700 /image/recordings && chown 65534:65534 /image/recordings

FROM packages AS code
COPY README.md LICENSE ./
COPY schemas schemas
COPY recordings recordings
COPY transport transport
COPY runtime runtime
COPY producers producers
COPY aggregator aggregator
COPY consumers consumers
COPY council council
RUN PYTHONPATH=/hatchling python -m pip install --no-deps --no-build-isolation --no-cache-dir --target /code .

FROM scratch
COPY --from=packages /image /
COPY --from=packages /packages /packages
COPY --from=code /code /code
ENV PATH=/usr/local/bin:/usr/bin:/bin:/code/bin PYTHONPATH=/code:/packages SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt
USER 65534:65534
