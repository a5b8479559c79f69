# docs/recipes/migrating.md
needs skopeo curl docker-registry
names registry.example.com
layer=$(image /srv/app 4)
hex=${layer#sha256:}
rm -rf /var/lib/docker-registry && mkdir -p /var/lib/docker-registry
registry 127.0.0.1:5009 /var/lib/docker-registry
skopeo copy --quiet --dest-tls-verify=false oci:/srv/app:v1 docker://127.0.0.1:5009/team/app:v1
run copy
skopeo copy --quiet --dest-tls-verify=false oci:/srv/app:v1 docker://127.0.0.1:5009/team/late:v1
run again >/tmp/again
cat /tmp/again
file /etc/samara/seeder.yaml
background seeder seeder serve --config /etc/samara/seeder.yaml --data /var/lib/samara/seeder
until_ok curl -sf http://127.0.0.1:5000/v2/
run switch
expect "the layer" "$hex" "$(sha256sum /tmp/switched/"$hex" | cut -c1-64)"
curl -fsS -o /dev/null http://registry.example.com:5000/v2/team/late/manifests/v1 -H 'Accept: application/vnd.oci.image.manifest.v1+json'
skopeo copy --quiet --src-tls-verify=false --dest-tls-verify=false docker://registry.example.com:5000/team/app:v1 docker://registry.example.com:5000/team/app:v2
cd /srv
run back
curl -fsS -o /dev/null http://127.0.0.1:5009/v2/team/app/manifests/v2 -H 'Accept: application/vnd.oci.image.manifest.v1+json'
skopeo copy --quiet --src-tls-verify=false docker://127.0.0.1:5009/team/app:v1 dir:/tmp/old
echo "registry:2: yes"

certs=/etc/containerd/certs.d
asks_first() { # FILE URL
  expect "the first host of $1" "$2" "$(grep -o '^\[host\."[^"]*"\]' "$1" | head -n 1 | cut -d'"' -f2)"
}
mkdir -p $certs/docker.io $certs/_backup/docker.io $certs/_default
printf 'version = 2\n[plugins."io.containerd.grpc.v1.cri".registry]\n  config_path = "%s"\n' $certs >/etc/containerd/config.toml
for r in docker.io _default; do
  printf '%s[host]\n[host."http://127.0.0.1:30020"]\ncapabilities = ["pull", "resolve"]\ndial_timeout = "200ms"\n[host."http://127.0.0.1:30021"]\ncapabilities = ["pull", "resolve"]\n' \
    "$([ $r = _default ] || printf 'server = "https://registry-1.docker.io"\n\n')" | sed 's/"\[host\]/"\n\n[host]/; s/^\[host\]$//' >$certs/$r/hosts.toml
done
echo 'server = "https://registry-1.docker.io"' >$certs/_backup/docker.io/hosts.toml
cp -r $certs /srv/spegel
peerd setup apply --runtime containerd --registry docker.io,_default --mirror http://127.0.0.1:5050
asks_first $certs/docker.io/hosts.toml http://127.0.0.1:5050
grep -q 30020 $certs/docker.io/hosts.toml # somebody else's, and so it stays
peerd setup undo >/dev/null
diff -r /srv/spegel $certs
run spegel
asks_first $certs/docker.io/hosts.toml http://127.0.0.1:5050
! grep -rq '30020' $certs
peerd setup undo >/dev/null
echo "Spegel: yes"

rm -rf $certs && mkdir -p $certs/docker.io /etc/docker
printf 'server = "https://index.docker.io"\n\n[host."http://127.0.0.1:4001"]\n  capabilities = ["pull", "resolve"]\n  [host."http://127.0.0.1:4001".header]\n    X-Dragonfly-Registry = "https://index.docker.io"\n' >$certs/docker.io/hosts.toml
printf '{\n  "registry-mirrors": [\n    "http://127.0.0.1:4001"\n  ]\n}\n' >/etc/docker/daemon.json
run dragonfly
asks_first $certs/docker.io/hosts.toml http://127.0.0.1:5050
expect "docker's mirrors" '["http://127.0.0.1:5050"]' "$(python3 -c 'import json; print(json.dumps(json.load(open("/etc/docker/daemon.json"))["registry-mirrors"]))')"
echo "Dragonfly: yes"

skopeo copy --quiet --dest-tls-verify=false oci:/srv/app:v1 docker://127.0.0.1:5009/library/app:v1
command=$(block kraken | sed -n 's/^# //p')
eval "background kraken $command --p2p-listen /ip4/127.0.0.1/tcp/4011 --pieces-listen 127.0.0.1:4012 --admin-listen 127.0.0.1:9096"
until_ok curl -sf http://127.0.0.1:30081/v2/
skopeo copy --quiet --src-tls-verify=false docker://127.0.0.1:30081/library/app:v1 dir:/tmp/kraken
expect "the layer by Kraken's name" "$hex" "$(sha256sum /tmp/kraken/"$hex" | cut -c1-64)"
echo "Kraken: yes"
