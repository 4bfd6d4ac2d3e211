{{/* Names, the broker's address and the parts that every pod of the factory has in common. */}}

{{- define "factory.labels" -}}
app.kubernetes.io/name: astro-factory
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "factory.bootstrap" -}}
{{- $own := dig "broker" "bootstrap" "" .Values.settings -}}
{{- if and .Values.kafka.create $own -}}
{{- fail "settings.broker.bootstrap names a cluster and kafka.create makes another: set kafka.create to false" -}}
{{- else if .Values.kafka.create -}}
{{ .Release.Name }}-kafka-bootstrap.{{ .Release.Namespace }}.svc:9092
{{- else -}}
{{- required "kafka.create is false: name your cluster in settings.broker.bootstrap" $own -}}
{{- end -}}
{{- end }}

{{/* How long a worker may take to finish what it has in hand: the longest search, and a minute. */}}
{{- define "factory.grace" -}}
{{- $grace := add 60 (ceil (dig "search" "timeout_s" 600 .Values.settings) | int) -}}
{{- $rebalance := div (dig "broker" "rebalance_timeout_ms" 900000 .Values.settings | int) 1000 -}}
{{- if ge $grace $rebalance -}}
{{- fail (printf "settings.search.timeout_s and a minute are %d s, and settings.broker.rebalance_timeout_ms is %d s: raise it above, a rebalance waits for the longest search" $grace $rebalance) -}}
{{- end -}}
{{ $grace }}
{{- end }}

{{/* What every pod's environment says of the settings, which the settings may therefore not say themselves. */}}
{{- define "factory.environment" -}}
{{- range list "factory.data" "factory.store" "factory.grace_s" "metrics.host" "metrics.port" }}
{{- $place := splitList "." . }}
{{- if dig (first $place) (last $place) "" $.Values.settings }}
{{- fail (printf "settings.%s is set by the chart: leave it out (data and metrics have values of their own)" .) }}
{{- end }}
{{- end }}
- {name: FACTORY_BROKER_BOOTSTRAP, value: {{ include "factory.bootstrap" . | quote }}}
- {name: FACTORY_FACTORY_DATA, value: /data}
{{- with .Values.data.store }}
- {name: FACTORY_FACTORY_STORE, value: {{ . | quote }}}
{{- end }}
- {name: FACTORY_FACTORY_GRACE_S, value: {{ include "factory.grace" . | quote }}}
- {name: FACTORY_METRICS_HOST, value: 0.0.0.0}
- {name: FACTORY_METRICS_PORT, value: {{ .Values.metrics.port | quote }}}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The entry of values.hardware that a part names. */}}
{{- define "factory.hardware" -}}
{{- get .root.Values.hardware .part.hardware | required (printf "hardware.%s: there is no such hardware in the values; there are: %s" .part.hardware (keys .root.Values.hardware | sortAlpha | join ", ")) | toJson -}}
{{- end }}

{{/* A container: (dict "root" $ "name" its name, "part" its entry in values, "command" and "arguments" lists). */}}
{{- define "factory.container" -}}
{{- $hardware := include "factory.hardware" . | fromJson -}}
name: {{ .name }}
image: {{ $hardware.image | quote }}
{{- with .command }}
command: {{ toJson . }}
{{- end }}
args: {{ toJson .arguments }}
env:
  {{- include "factory.environment" .root | trim | nindent 2 }}
{{- if ne .name "studio" }}
ports:
  - {name: metrics, containerPort: {{ .root.Values.metrics.port }}}
{{- end }}
resources: {{ .part.resources | default $hardware.resources | toJson }}
securityContext:
  allowPrivilegeEscalation: false
  capabilities: {drop: [ALL]}
volumeMounts:
  - {name: data, mountPath: /data}
  - {name: settings, mountPath: /etc/factory, readOnly: true}
  - {name: shared-memory, mountPath: /dev/shm}
{{- end }}

{{/* What a pod has around its container: (dict "root" $ "part" its entry in values). */}}
{{- define "factory.pod" -}}
{{- $hardware := include "factory.hardware" . | fromJson -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
nodeSelector: {{ $hardware.nodeSelector | toJson }}
tolerations: {{ $hardware.tolerations | toJson }}
volumes:
  - name: data
    {{- if .root.Values.data.store }}
    emptyDir: {}   # what is this pod's alone: its status, and what it has fetched
    {{- else }}
    persistentVolumeClaim: {claimName: {{ .root.Values.data.claim | default (printf "%s-data" .root.Release.Name) }}}
    {{- end }}
  - name: settings
    configMap: {name: {{ .root.Release.Name }}-settings}
  - name: shared-memory
    emptyDir: {medium: Memory, sizeLimit: 8Gi}
{{- end }}

{{/* A pod's annotations: new settings mean new pods, and where Prometheus finds the numbers. */}}
{{- define "factory.annotations" -}}
checksum/settings: {{ toJson .Values.settings | sha256sum }}
prometheus.io/scrape: "true"
prometheus.io/port: {{ .Values.metrics.port | quote }}
{{- end }}
