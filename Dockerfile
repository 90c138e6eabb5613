# The mail server, for amd64 and arm64. Started as root it opens its ports and goes on as the user mox; started as any
# other user (docker run --user) it stays that user.
FROM python:3.11-slim

RUN apt-get update \
    && apt-get install -y --no-install-recommends redis-server \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --user-group --home-dir /mox --shell /usr/sbin/nologin mox \
    && install -d -o mox -g mox -m 0750 /mox/data /mox/content \
    && chmod 0755 /mox

COPY requirements.txt /opt/mox/
RUN pip install --no-cache-dir -r /opt/mox/requirements.txt

# Root's, and written by nobody else: root runs some of it.
COPY . /opt/mox
RUN ln -s /opt/mox/mox /usr/local/bin/mox \
    && python3 -m compileall -q /opt/mox

ENV MOX_CONTAINER=yes
WORKDIR /mox
EXPOSE 25 465 587 143 993 80 443 8010
CMD ["mox", "serve"]
