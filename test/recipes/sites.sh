# docs/recipes/sites.md
needs skopeo curl docker-registry
names registry-1.docker.test seeder.us.example seeder.eu.example
layer=$(image /srv/app 8)
hex=${layer#sha256:}
registry 127.0.0.1:5009 /srv/registry
upstream=$!
skopeo copy --quiet --dest-tls-verify=false oci:/srv/app:v1 docker://127.0.0.1:5009/library/app:v1

own() { # N: flags that keep seeders on one machine apart
  echo --p2p-listen "/ip4/127.0.0.1/tcp/40${1}1" --pieces-listen "127.0.0.1:40${1}2" --admin-listen "127.0.0.1:90${1}5"
}
sent() { # ADMIN: bytes to clients
  curl -fsS "http://127.0.0.1:$1/v1/status" | grep -o '"toClients": *[0-9]*' | grep -o '[0-9]*$'
}

# Two regions. On one machine, so us is where the name leads.
file /etc/samara/eu.yaml
background us seeder serve --data /var/lib/samara/us --upstream docker.io=http://127.0.0.1:5009 --listen 127.0.0.1:5000 $(own 1)
until_ok curl -sf http://127.0.0.1:5000/v2/
sed -i 's/^127.0.0.1 seeder.eu.example/127.0.0.2 seeder.eu.example/' /etc/hosts
background eu seeder serve --data /var/lib/samara/eu --config /etc/samara/eu.yaml --listen 127.0.0.2:5000 $(own 2)
until_ok curl -sf http://127.0.0.2:5000/v2/
run regions
expect "the layer in eu" "$hex" "$(sha256sum /tmp/second/"$hex" | cut -c1-64)"
images=$(($(sent 9015) * 100 / (8 << 20)))
[ $images -ge 100 ] && [ $images -le 101 ] || { echo "us has sent $images% of the image"; exit 1; }
(cd /srv && run outside)
kill $upstream; wait $upstream || true
skopeo copy --quiet --src-tls-verify=false docker://seeder.eu.example:5000/docker.io/library/app:v1 dir:/tmp/third
echo "two regions: yes, $images% of an image crossed the border for two pulls"

# A site without a network.
mkdir /srv/stick && mv /srv/bundle.tar /srv/bundle.tar.sha256 /srv/stick/ && cd /srv/stick
file /etc/samara/inside.yaml
run inside
background inside seeder serve --data /var/lib/samara/inside --config /etc/samara/inside.yaml --listen 127.0.0.3:5000 $(own 3)
until_ok curl -sf http://127.0.0.3:5000/v2/
skopeo copy --quiet --src-tls-verify=false docker://127.0.0.3:5000/docker.io/library/app:v1 dir:/tmp/inside
expect "the layer inside" "$hex" "$(sha256sum /tmp/inside/"$hex" | cut -c1-64)"
curl -fsS -o /dev/null 'http://127.0.0.3:5000/v2/library/app/manifests/v1?ns=docker.io' -H 'Accept: application/vnd.oci.image.manifest.v1+json'
echo "a site without a network: yes"

# WireGuard: two namespaces, an underlay between them in which nothing else is let through.
command -v wireguard-go >/dev/null && command -v wg >/dev/null && [ -e /dev/net/tun ] || { echo "WireGuard: wireguard-go is missing"; exit 0; }
for n in 1 2; do ip netns add s$n; ip -n s$n link set lo up; done
ip link add w1 netns s1 type veth peer name w2 netns s2
umask 077
for n in a b; do wg genkey | tee /srv/$n.key | wg pubkey >/srv/$n.pub; done
block /etc/wireguard/a.conf | sed "s,PRIVATE_A,$(cat /srv/a.key),; s,PUBLIC_B,$(cat /srv/b.pub),; /^MTU/d" >/srv/1.conf
block /etc/wireguard/a.conf | sed "s,PRIVATE_A,$(cat /srv/b.key),; s,PUBLIC_B,$(cat /srv/a.pub),; s,192.0.2.2,192.0.2.1,; s,10.66.0.2/32,10.66.0.1/32,; /^MTU/d" >/srv/2.conf
mtu=$(block /etc/wireguard/a.conf | sed -n 's/^MTU = //p')
for n in 1 2; do
  ip -n s$n addr add 192.0.2.$n/24 dev w$n
  ip -n s$n link set w$n up
  WG_PROCESS_FOREGROUND=1 background wg$n ip netns exec s$n wireguard-go -f wg$n
  until_ok ip -n s$n link show wg$n
  until_ok ip netns exec s$n wg setconf wg$n /srv/$n.conf
  ip -n s$n addr add 10.66.0.$n/24 dev wg$n
  ip -n s$n link set wg$n mtu "$mtu" up
done
background wseeder ip netns exec s1 seeder serve --data /var/lib/samara/inside2 --config /etc/samara/inside.yaml --allow 'anyone pull+push **' --advertise 10.66.0.1
until_ok ip netns exec s1 curl -sf http://10.66.0.1:5000/v2/
ip netns exec s1 skopeo copy --quiet --dest-tls-verify=false oci:/srv/app:v1 docker://10.66.0.1:5000/docker.io/library/app:v1
background wpeerd ip netns exec s2 peerd serve --data /var/lib/samara/wpeerd --seeder http://10.66.0.1:5000 --swarm-key /var/lib/samara/inside2/swarm.key --advertise 10.66.0.2 --zone b
until_ok ip netns exec s2 curl -sf http://127.0.0.1:9095/readyz
ip netns exec s2 skopeo copy --quiet --src-tls-verify=false docker://127.0.0.1:5050/docker.io/library/app:v1 dir:/tmp/tunnel
expect "the layer at the other end" "$hex" "$(sha256sum /tmp/tunnel/"$hex" | cut -c1-64)"
inside=$(ip netns exec s2 wg show wg2 transfer | cut -f2)
[ "$inside" -gt $((8 << 20)) ] || { echo "only $inside bytes came by the tunnel"; exit 1; }
echo "WireGuard: yes, $inside bytes by the tunnel"
