{{/* Names begin with the release's, which has "samara" in it or gets it. */}}
{{- define "samara.name" -}}
{{- if contains "samara" .Release.Name }}{{ .Release.Name | trunc 48 | trimSuffix "-" }}{{ else }}{{ printf "%s-samara" .Release.Name | trunc 48 | trimSuffix "-" }}{{ end -}}
{{- end }}

{{- define "samara.setupNamespace" -}}
{{ .Values.setup.namespace | default (printf "%s-setup" .Release.Namespace) }}
{{- end }}

{{/* Of every object. */}}
{{- define "samara.labels" -}}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{/* Selects the pods of a component: (list $ "peerd"). */}}
{{- define "samara.selector" -}}
{{- $ := index . 0 -}}
app.kubernetes.io/name: {{ include "samara.name" $ }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/* Selects peerds and seeders. */}}
{{- define "samara.peers" -}}
podSelector:
  matchExpressions:
    - key: app.kubernetes.io/name
      operator: In
      values: [{{ include "samara.name" . }}]
    - key: app.kubernetes.io/component
      operator: In
      values: [peerd, seeder]
{{- end }}

{{/* (list $ "peerd") */}}
{{- define "samara.image" -}}
{{- $ := index . 0 -}}
image: {{ $.Values.image.registry }}/{{ index . 1 }}:{{ $.Values.image.tag | default $.Chart.AppVersion }}
imagePullPolicy: {{ $.Values.image.pullPolicy }}
{{- end }}

{{- define "samara.swarmKeySecret" -}}
{{ .Values.swarmKey.existingSecret | default (printf "%s-swarm-key" (include "samara.name" .)) }}
{{- end }}

{{/* The security of a long-running pod, and of its container. */}}
{{- define "samara.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
{{- end }}

{{- define "samara.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* The environment of a daemon: (list $ "peerd" zone). */}}
{{- define "samara.env" -}}
{{- $daemon := index . 1 -}}
{{- $zone := index . 2 -}}
- name: {{ upper $daemon }}_ZONE
  {{- if $zone }}
  value: {{ $zone | quote }}
  {{- else }}
  # The label of the node, which Kubernetes from 1.35 on copies to its pods.
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['topology.kubernetes.io/zone']
  {{- end }}
# MiB of the limit times 10^6: 95% of it, whatever it is.
- name: MEMORY_LIMIT_MIB
  valueFrom:
    resourceFieldRef:
      containerName: {{ $daemon }}
      resource: limits.memory
      divisor: 1Mi
- name: GOMEMLIMIT
  value: $(MEMORY_LIMIT_MIB)000000
{{- end }}

{{- define "samara.probes" -}}
startupProbe:
  httpGet:
    path: /healthz
    port: admin
  periodSeconds: 1
  timeoutSeconds: 2
  failureThreshold: 120
livenessProbe:
  httpGet:
    path: /healthz
    port: admin
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet:
    path: /readyz
    port: admin
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: 3
{{- end }}

{{- define "samara.dnsEgress" -}}
- ports:
    - port: 53
      protocol: UDP
    - port: 53
      protocol: TCP
{{- end }}

{{/* Where the files of the runtime are. */}}
{{- define "samara.runtimeDirectory" -}}
{{- if .Values.setup.directory }}{{ .Values.setup.directory }}
{{- else }}{{ get (dict "containerd" "/etc/containerd" "k3s" "/var/lib/rancher/k3s/agent/etc/containerd" "rke2" "/var/lib/rancher/rke2/agent/etc/containerd" "crio" "/etc/containers") .Values.setup.runtime }}
{{- end }}
{{- end }}

{{/* The registries that are set up: those that the seeder stands for. */}}
{{- define "samara.registries" -}}
{{- $names := .Values.setup.registries -}}
{{- if .Values.upstreams }}{{ $names = keys .Values.upstreams | sortAlpha }}{{ end -}}
{{- if ne .Values.setup.runtime "crio" }}{{ $names = append $names "_default" }}{{ end -}}
{{- join "," $names }}
{{- end }}

{{/* peerd.yaml and seeder.yaml: what the chart knows, and over it what the values say. */}}
{{- define "samara.peerdConfig" -}}
{{- $name := include "samara.name" . -}}
{{- $urls := .Values.seeder.urls -}}
{{- if .Values.seeder.enabled }}{{ $urls = prepend $urls (printf "http://%s-seeder:5000" $name) }}{{ end -}}
{{- $c := dict "bootstrap-dns" (printf "%s-peers:4002" $name) -}}
{{- if $urls }}{{ $_ := set $c "seeder" $urls }}{{ end -}}
{{- if and .Values.upstreams (not $urls) }}{{ $_ := set $c "upstream" .Values.upstreams }}{{ end -}}
{{- mergeOverwrite $c (deepCopy .Values.peerd.config) | toYaml }}
{{- end }}

{{- define "samara.seederConfig" -}}
{{- $c := dict -}}
{{- if .Values.upstreams }}{{ $_ := set $c "upstream" .Values.upstreams }}{{ end -}}
{{- mergeOverwrite $c (deepCopy .Values.seeder.config) | toYaml }}
{{- end }}
