# Stagewright's own image, which it builds itself:
#
#     stagewright build -t stagewright .
#
# It needs no privilege where it runs: as root with a container's default capabilities it builds in a chroot, with more
# it contains its steps better (`stagewright info`). See examples/08-kubernetes and examples/09-gitlab-ci.

FROM python:3.13-slim AS build
WORKDIR /src
COPY pyproject.toml README.md LICENSE ./
COPY src src
RUN --mount=type=cache,target=/root/.cache/pip \
    --mount=type=secret,id=pip.conf,target=/etc/pip.conf \
    python -m venv --without-pip /opt/stagewright \
 && pip --python /opt/stagewright/bin/python install .

FROM python:3.13-slim
COPY --from=build /opt/stagewright /opt/stagewright
ENV PATH=/opt/stagewright/bin:$PATH
# A file system of its own: what is built and pulled is no part of the container's layers.
VOLUME /var/lib/stagewright
WORKDIR /workspace
ENTRYPOINT ["stagewright"]
CMD ["--help"]
