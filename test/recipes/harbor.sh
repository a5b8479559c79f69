# docs/recipes/harbor.md
needs skopeo curl docker-registry openssl htpasswd python3
names harbor.example.com
authority harbor.example.com
layer=$(image /srv/app 4)
hex=${layer#sha256:}
own() { # N: flags that keep seeders on one machine apart
  echo --p2p-listen "/ip4/127.0.0.1/tcp/40${1}1" --pieces-listen "127.0.0.1:40${1}2" --admin-listen "127.0.0.1:90${1}5"
}

# A registry with a token service, as Harbor's: it is another seeder.
export SECRET='s3cr$t'
htpasswd -bBc -C 10 /srv/harbor.users 'robot$samara' "$SECRET" 2>/dev/null
htpasswd -bB -C 10 /srv/harbor.users admin admin-password 2>/dev/null
background harbor seeder serve --data /srv/harbor --listen 127.0.0.1:443 --tls-cert /etc/samara/tls.crt --tls-key /etc/samara/tls.key --local '*' --local-name harbor.example.com \
  --htpasswd /srv/harbor.users --allow 'user:admin pull+push **' --allow 'user:robot$samara pull **' --access-log /tmp/harbor.log $(own 1)
until_ok curl -s https://harbor.example.com/v2/
curl -sI https://harbor.example.com/v2/ | grep -qi '^www-authenticate: bearer realm="https://harbor.example.com/token"'
skopeo copy --quiet --dest-creds admin:admin-password oci:/srv/app:v1 docker://harbor.example.com/library/app:v1

mkdir -p /etc/samara/harbor
! SECRET=wrong run login >/dev/null 2>&1
run login
file /etc/samara/seeder.yaml
background front seeder serve --data /srv/front --config /etc/samara/seeder.yaml --listen 127.0.0.1:5000 $(own 2)
front=$!
until_ok curl -sf http://127.0.0.1:5000/v2/
run pull
expect "the layer" "$hex" "$(sha256sum /tmp/app/"$hex" | cut -c1-64)"
given() { grep -c "\"method\":\"GET\".*blobs/sha256:$hex" /tmp/harbor.log; }
before=$(given)
rm -r /tmp/app && run pull
expect "blobs that Harbor gave to the second pull" "$before" "$(given)"
kill $front; wait $front || true
echo "in front of Harbor: yes"

registry 127.0.0.1:5009 /srv/hub
htpasswd -bBc -C 10 /etc/samara/htpasswd harbor harbor-password 2>/dev/null
htpasswd -bB -C 10 /etc/samara/htpasswd ci ci-password 2>/dev/null
file /etc/samara/behind.yaml
background behind seeder serve --data /srv/behind --config /etc/samara/behind.yaml $(own 3)
until_ok curl -s http://127.0.0.1:5000/v2/
skopeo copy --quiet --dest-tls-verify=false --dest-creds ci:ci-password oci:/srv/app:v1 docker://127.0.0.1:5000/team/app:v1
printf 'version: 0.1\nlog: {level: error}\nstorage: {filesystem: {rootdirectory: /srv/proxy}}\nhttp: {addr: "127.0.0.1:5010"}\nproxy: {remoteurl: "http://127.0.0.1:5000", username: harbor, password: harbor-password}\n' >/srv/proxy.yaml
background proxy docker-registry serve /srv/proxy.yaml
until_ok curl -sf http://127.0.0.1:5010/v2/
skopeo copy --quiet --src-tls-verify=false docker://127.0.0.1:5010/team/app:v1 dir:/tmp/proxied
expect "the layer by the proxy" "$hex" "$(sha256sum /tmp/proxied/"$hex" | cut -c1-64)"
echo "behind Harbor, proxy cache: yes"

token() { curl -fsS -u "$1" "http://127.0.0.1:5000/token?scope=registry:catalog:*" | python3 -c 'import json, sys; print(json.load(sys.stdin)["token"])'; }
catalogue() { curl -fsS -H "Authorization: Bearer $(token "$1")" http://127.0.0.1:5000/v2/_catalog || true; }
catalogue harbor:harbor-password | grep -q 'team/app'
! catalogue ci:ci-password 2>/dev/null | grep -q 'team/app'
skopeo sync --src docker --dest dir --src-tls-verify=false --src-creds harbor:harbor-password 127.0.0.1:5000/team/app /tmp/replica >/dev/null 2>&1
find /tmp/replica -name "$hex" | grep -q .
echo "behind Harbor, replication: yes"
