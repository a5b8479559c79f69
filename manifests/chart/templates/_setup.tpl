{{/* The object that sets nodes up, (list $ false), or gives them back, (list $ true). */}}
{{- define "samara.setup" -}}
{{- $undo := index . 1 -}}
{{- $do := $undo | ternary "undo" "apply" -}}
{{- with index . 0 -}}
{{- $dir := include "samara.runtimeDirectory" . -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {{ include "samara.name" . }}-setup
  namespace: {{ include "samara.setupNamespace" . }}
  labels:
    {{- include "samara.labels" . | nindent 4 }}
  {{- if $undo }}
  annotations:
    helm.sh/hook: pre-delete
    helm.sh/hook-weight: "0"
    # Uninstall deletes it by its name. Should a node be away, it stays.
    helm.sh/hook-delete-policy: before-hook-creation
  {{- end }}
spec:
  selector:
    matchLabels:
      {{- include "samara.selector" (list . "setup") | nindent 6 }}
  updateStrategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: {{ $undo | ternary "100%" "25%" }}
  template:
    metadata:
      labels:
        app.kubernetes.io/instance: {{ .Release.Name }}
        {{- include "samara.selector" (list . "setup") | nindent 8 }}
        {{- if $undo }}
        samara-setup: undo
        {{- end }}
    spec:
      serviceAccountName: {{ include "samara.name" . }}-setup
      automountServiceAccountToken: false
      enableServiceLinks: false
      priorityClassName: {{ .Values.peerd.priorityClassName }}
      {{- with .Values.image.pullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      terminationGracePeriodSeconds: 5
      nodeSelector:
        kubernetes.io/os: linux
        {{- with .Values.peerd.nodeSelector }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.peerd.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      securityContext:
        seccompProfile:
          type: RuntimeDefault
      initContainers:
        - name: {{ $do }}
          {{- include "samara.image" (list . "peerd") | nindent 10 }}
          args:
            - setup
            - {{ $do }}
            - --root=/host
            - --state={{ $dir }}/samara
            {{- if not $undo }}
            - --runtime={{ eq .Values.setup.runtime "crio" | ternary "podman" "containerd" }}
            - --mirror=http://{{ include "samara.name" . }}-mirror.{{ .Release.Namespace }}.svc:5050
            - --resolve-mirror
            - --registry={{ include "samara.registries" . }}
            {{- if .Values.setup.directory }}
            - --file={{ eq .Values.setup.runtime "crio" | ternary (printf "podman=%s/registries.conf" $dir) (printf "containerd=%s/config.toml" $dir) }}
            {{- end }}
            {{- if .Values.setup.writeConfigPath }}
            - --write-config-path
            {{- end }}
            {{- with .Values.setup.extraArgs }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
            {{- end }}
          resources:
            requests:
              cpu: 10m
              memory: 32Mi
            limits:
              memory: 96Mi
          securityContext:
            runAsUser: 0
            {{- include "samara.containerSecurity" . | nindent 12 }}
          volumeMounts:
            - name: runtime
              mountPath: /host{{ $dir }}
      containers:
        - name: hold
          {{- include "samara.image" (list . "peerd") | nindent 10 }}
          args: [setup, hold]
          resources:
            requests:
              cpu: 1m
              memory: 32Mi
            limits:
              memory: 96Mi
          securityContext:
            runAsNonRoot: true
            runAsUser: 65532
            runAsGroup: 65532
            {{- include "samara.containerSecurity" . | nindent 12 }}
      volumes:
        - name: runtime
          hostPath:
            path: {{ $dir }}
            type: Directory
{{- end }}
{{- end }}
