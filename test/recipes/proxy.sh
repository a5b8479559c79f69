# docs/recipes/proxy.md
needs nginx haproxy skopeo curl openssl
names seeder.example.com
authority seeder.example.com
export LAYER; LAYER=$(image /srv/app 24)
hex=${LAYER#sha256:}
file /etc/samara/seeder.yaml
background seeder seeder serve --config /etc/samara/seeder.yaml --data /var/lib/samara/seeder
until_ok curl -sf http://127.0.0.1:5000/v2/
url=https://seeder.example.com

through() { # a proxy that listens on port 443
  until_ok curl -sf $url/v2/
  run check
  expect "the layer" "$hex" "$(sha256sum /tmp/pulled/"$hex" | cut -c1-64)"
  cmp /tmp/range <(tail -c +1001 /srv/app/blobs/sha256/"$hex" | head -c 1000)
  rm -r /tmp/pulled

  # A client that says who it is, and one that is cut in the middle and resumes.
  expect "a range" 206 "$(curl -s -o /dev/null -w '%{http_code}' --interface 127.0.0.7 -H 'X-Forwarded-For: 10.9.9.9' -r 5-9 $url/v2/team/app/blobs/"$LAYER")"
  expect "its address" 127.0.0.7 "$(tail -n 1 /var/lib/samara/access.log | grep -o '"client":"[^"]*"' | cut -d'"' -f4)"
  curl -s --max-time 2 --limit-rate 4M -o /tmp/cut $url/v2/team/app/blobs/"$LAYER" || true
  [ "$(stat -c %s /tmp/cut)" -lt $((20 << 20)) ]
  curl -fsS -C - -o /tmp/cut $url/v2/team/app/blobs/"$LAYER"
  expect "what was resumed" "$hex" "$(sha256sum </tmp/cut | cut -c1-64)"

  # A push of something new, in chunks of which the second is cut.
  head -c 12M /dev/urandom >/tmp/new
  local upload status sent digest
  upload=$(curl -fsS -X POST -o /dev/null -w '%header{location}' $url/v2/team/new/blobs/uploads/)
  case $upload in $url/*) ;; /*) upload=$url$upload ;; *) echo "the upload is elsewhere: $upload"; return 1 ;; esac
  head -c 4M /tmp/new >/tmp/first
  upload=$(curl -fsS -X PATCH -H 'Content-Type: application/octet-stream' -H "Content-Range: 0-$(((4 << 20) - 1))" --data-binary @/tmp/first -o /dev/null -w '%header{location}' "$upload")
  case $upload in /*) upload=$url$upload ;; esac
  tail -c +$(((4 << 20) + 1)) /tmp/new >/tmp/rest
  curl -s -X PATCH -H 'Content-Type: application/octet-stream' -H "Content-Range: $((4 << 20))-$(((12 << 20) - 1))" -H 'Expect:' --limit-rate 4M -T /tmp/rest -o /dev/null "$upload" &
  local pusher=$!
  until_ok arrived "$upload" $((5 << 20)) # while it still sends: nothing is held back
  kill -0 $pusher
  kill $pusher; wait $pusher || true
  sent=$(received "$upload")
  [ "$sent" -ge $((5 << 20)) ]
  tail -c +$((sent + 1)) /tmp/new >/tmp/rest
  digest=$(sha256sum </tmp/new | cut -c1-64)
  upload=$(curl -fsS -X PATCH -H 'Content-Type: application/octet-stream' -H "Content-Range: $sent-$(((12 << 20) - 1))" --data-binary @/tmp/rest -o /dev/null -w '%header{location}' "$upload")
  case $upload in /*) upload=$url$upload ;; esac
  case $upload in *\?*) upload+="&digest=sha256:$digest" ;; *) upload+="?digest=sha256:$digest" ;; esac
  expect "the end of the push" 201 "$(curl -s -X PUT -o /dev/null -w '%{http_code}' "$upload")"
  expect "what was pushed" "$digest" "$(curl -fsS $url/v2/team/new/blobs/sha256:"$digest" | sha256sum | cut -c1-64)"
}
received() { # UPLOAD: bytes that the seeder has of it
  local range; range=$(curl -fsS -o /dev/null -w '%header{range}' "$1")
  echo $((${range#0-} + 1))
}
arrived() { [ "$(received "$1")" -ge "$2" ]; }

file /etc/nginx/conf.d/seeder.conf
rm -f /etc/nginx/sites-enabled/*
background nginx nginx -g 'daemon off;'
nginx=$!
through
kill $nginx; wait $nginx || true
echo "nginx: yes"

file /etc/haproxy/haproxy.cfg
haproxy -c -q -f /etc/haproxy/haproxy.cfg
background haproxy haproxy -db -f /etc/haproxy/haproxy.cfg
through
echo "HAProxy: yes"
