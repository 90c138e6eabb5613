#!/bin/sh
# The mail programs, the browser and docker-compose, that tests of the running server use. As root they are installed; else their absence is told, and
# the tests that need one are skipped with that reason.
set -u
packages=""
need() { command -v "$1" >/dev/null 2>&1 || packages="$packages $2"; }
need swaks swaks
need gsasl gsasl
need mbsync isync
need mutt mutt
need neomutt neomutt
need offlineimap offlineimap3
need fetchmail fetchmail
need getmail getmail6
need dovecot dovecot-imapd
need curl curl
need unzip unzip
need openssl openssl
need microsocks microsocks
need nsd nsd
need unbound unbound
need ldns-signzone ldnsutils
need dig bind9-dnsutils
need opendkim-testmsg opendkim-tools
need postfix postfix
need chromium chromium
need docker-compose docker-compose
[ -z "$packages" ] && exit 0
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq && apt-get install -y -qq --no-install-recommends $packages >/dev/null && exit 0
    echo "could not install:$packages" >&2
    exit 1
fi
echo "not installed, tests that need them are skipped:$packages (Debian packages; run this as root to install them)"
