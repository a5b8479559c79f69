# docs/recipes/ci.md
needs skopeo podman curl jq openssl python3 htpasswd
python3 -c 'import yaml' || { echo "python3-yaml is missing"; exit 77; }
names seeder.example.com gitlab.example.com token.actions.githubusercontent.com
authority seeder.example.com gitlab.example.com token.actions.githubusercontent.com
image /srv/build 4 >/dev/null
cd /srv

# The issuers: discovery and keys, and GitHub's endpoint for ID tokens.
openssl genrsa -out /srv/issuer.key 2048 2>/dev/null
b64() { base64 -w0 | tr '+/' '-_' | tr -d '='; }
jwt() { # ISSUER SUBJECT AUDIENCE
  local head body
  head=$(printf '{"alg":"RS256","typ":"JWT","kid":"1"}' | b64)
  body=$(printf '{"iss":"%s","sub":"%s","aud":"%s","iat":%d,"nbf":%d,"exp":%d}' "$1" "$2" "$3" "$(date +%s)" "$(date +%s)" $(($(date +%s) + 3600)) | b64)
  printf '%s.%s.%s' "$head" "$body" "$(printf '%s.%s' "$head" "$body" | openssl dgst -sha256 -sign /srv/issuer.key | b64)"
}
modulus=$(openssl rsa -in /srv/issuer.key -noout -modulus 2>/dev/null | cut -d= -f2 | python3 -c 'import sys, base64; print(base64.urlsafe_b64encode(bytes.fromhex(sys.stdin.read())).decode().rstrip("="))')
github=$(jwt https://token.actions.githubusercontent.com repo:acme/app:ref:refs/heads/main seeder.example.com)
cat >/srv/issuers.py <<P
import http.server, json, ssl
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        host = self.headers["Host"].split(":")[0]
        if self.path.endswith("/openid-configuration"):
            doc = {"issuer": "https://" + host, "jwks_uri": "https://" + host + ":8443/keys"}
        elif self.path == "/keys":
            doc = {"keys": [{"kty": "RSA", "kid": "1", "use": "sig", "alg": "RS256", "n": "$modulus", "e": "AQAB"}]}
        elif self.path.startswith("/idtoken?") and self.headers["Authorization"] == "Bearer runner" and "audience=seeder.example.com" in self.path:
            doc = {"value": "$github"}
        else:
            self.send_error(404); return
        self.send_response(200); self.end_headers(); self.wfile.write(json.dumps(doc).encode())
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER); tls.load_cert_chain("/etc/samara/tls.pem")
import threading
for address in (("127.0.0.4", 443), ("127.0.0.4", 8443)):
    s = http.server.ThreadingHTTPServer(address, H); s.socket = tls.wrap_socket(s.socket, server_side=True)
    threading.Thread(target=s.serve_forever).start()
P
sed -i -E 's/^127.0.0.1 (gitlab.example.com|token.actions.*)/127.0.0.4 \1/' /etc/hosts
background issuers python3 /srv/issuers.py
until_ok curl -sf https://gitlab.example.com:8443/keys

file /etc/samara/seeder.yaml
file /etc/samara/issuers.yaml
htpasswd -bBc -C 10 /etc/samara/htpasswd jenkins 'pa$$ word' 2>/dev/null
sed -i 's/^listen: :443/listen: 127.0.0.1:443/' /etc/samara/seeder.yaml # the issuers have that port, too
background seeder seeder serve --config /etc/samara/seeder.yaml --data /var/lib/samara/seeder
until_ok curl -s https://seeder.example.com/healthz

steps() { # BLOCK EXPRESSION: commands of a YAML file, by a Python expression over y
  block "$1" | python3 -c 'import sys, yaml; y = yaml.safe_load(sys.stdin); print("\n".join('"$2"'))'
}
passes() { # SCRIPT
  at=$1
  bash -euo pipefail -c "$1" >/tmp/log/pipeline 2>&1
  at=""
}
fails() {
  ! bash -euo pipefail -c "$1" >/tmp/log/pipeline 2>&1 || { echo "should have failed: $1"; return 1; }
  grep -q 'denied\|unauthorized\|invalid username' /tmp/log/pipeline
}
pushed() { # TAG
  skopeo inspect --creds 'jenkins:pa$$ word' "docker://seeder.example.com/acme/app:$1" >/dev/null
}

gitlab=$(steps .gitlab-ci.yml 'y["image"]["script"]')
steps .gitlab-ci.yml '[y["image"]["id_tokens"]["SEEDER_TOKEN"]["aud"], y["image"]["rules"][0]["if"]]' >/dev/null
export CI_COMMIT_SHA=1111111
main=project_path:acme/app:ref_type:branch:ref:main
export SEEDER_TOKEN
SEEDER_TOKEN=$(jwt https://gitlab.example.com ${main/%main/other} https://seeder.example.com) fails "$gitlab"
SEEDER_TOKEN=$(jwt https://gitlab.example.com $main https://other.example.com) fails "$gitlab"
SEEDER_TOKEN=$(jwt https://gitlab.example.com $main https://seeder.example.com) passes "$gitlab"
pushed 1111111
rm -f /run/containers/0/auth.json
echo "GitLab: yes"

workflow=$(steps .github/workflows/image.yml '[s["run"] for s in y["jobs"]["image"]["steps"] if "run" in s]')
steps .github/workflows/image.yml '[y["permissions"]["id-token"]]' | grep -qx write
export GITHUB_SHA=2222222 ACTIONS_ID_TOKEN_REQUEST_TOKEN=runner 'ACTIONS_ID_TOKEN_REQUEST_URL=https://token.actions.githubusercontent.com:8443/idtoken?api-version=2'
export STORAGE_DRIVER=vfs
passes "$workflow"
pushed 2222222
GITHUB_SHA=3333333 fails "echo '$(jwt https://token.actions.githubusercontent.com repo:acme/app:pull_request seeder.example.com)' | podman login --username oidc --password-stdin seeder.example.com && $(tail -n 1 <<<"$workflow")"
rm -f /run/containers/0/auth.json
echo "GitHub: yes"

jenkins=$(block Jenkinsfile | sed -n "s/^ *sh '\(.*\)'$/\1/p")
export GIT_COMMIT=4444444 SEEDER_USER=jenkins
SEEDER_PASSWORD=wrong fails "$jenkins"
SEEDER_PASSWORD='pa$$ word' passes "$jenkins"
pushed 4444444
grep -q '"user":"jenkins"' /var/lib/samara/audit.log
! grep -q 'pa\$\$' /var/lib/samara/audit.log /tmp/log/seeder
echo "Jenkins: yes"
