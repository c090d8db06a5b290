#!/usr/bin/env bash
# Makes a base image from Debian's packages alone, for machines that reach no image registry: image_base.sh NAME
#
# debootstrap needs root. The mirror is that of this machine's apt, unless DEBIAN_MIRROR names another.
set -euo pipefail
name=${1:?usage: image_base.sh NAME}
docker=${DOCKER:-docker}
suite=${DEBIAN_SUITE:-bookworm}

command -v debootstrap >/dev/null ||
  { echo "image_base: debootstrap is missing; on Debian: apt-get install debootstrap" >&2; exit 2; }
mirror=${DEBIAN_MIRROR:-$(grep -hsE '^(URIs:|deb )' /etc/apt/sources.list /etc/apt/sources.list.d/*.sources \
  /etc/apt/sources.list.d/*.list | grep -oE 'https?://[^ ]+' | grep -vE 'security' | head -n 1 || true)}

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
echo "image_base: Debian $suite, minbase with ca-certificates, as $name (2 minutes)" >&2
debootstrap --variant=minbase --include=ca-certificates "$suite" "$root" ${mirror:+"$mirror"} >"$root.log" 2>&1 ||
  { tail -n 5 "$root.log" >&2; rm -f "$root.log"; exit 1; }
rm -f "$root.log"
# As Debian's slim images: no manuals, no translations; the copyright files stay.
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/*.log \
  "$root"/usr/share/{man,info,locale,lintian,groff,linda}
find "$root/usr/share/doc" -type f ! -name copyright -delete
printf 'path-exclude /usr/share/%s/*\n' man info locale lintian doc >"$root/etc/dpkg/dpkg.cfg.d/slim"
echo 'path-include /usr/share/doc/*/copyright' >>"$root/etc/dpkg/dpkg.cfg.d/slim"
tar -C "$root" -c . | "$docker" import - "$name" >/dev/null
