{{- define "flexspec.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels that select the pods of a part: (list . "worker"). */}}
{{- define "flexspec.selector" -}}
app.kubernetes.io/name: {{ (index . 0).Chart.Name }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "flexspec.labels" -}}
{{ include "flexspec.selector" . }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ (index . 0).Chart.Name }}-{{ (index . 0).Chart.Version }}
{{- end }}

{{/* An image of deploy/Containerfile, by the name of its stage. */}}
{{- define "flexspec.image" -}}
{{- $ := index . 0 -}}
{{ required "image.registry: where the images of deploy/Containerfile were pushed, as registry.example/team" $.Values.image.registry | trimSuffix "/" }}/flexspec-{{ index . 1 }}:{{ $.Values.image.tag | default $.Chart.AppVersion }}
{{- end }}

{{/* What all pods have in common: no rights, no token, the user of the images. */}}
{{- define "flexspec.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false # a Service called flexspec-broker would set FLEXSPEC_BROKER_PORT
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  # Otherwise each start would let the group read what daemons keep to themselves, and they refuse such keys.
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "flexspec.container" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Settings as variables: (list "CLOUD" settings). A number as JSON has it, or a million is 1e+06. */}}
{{- define "flexspec.settings" -}}
{{- $program := index . 0 -}}
{{- range $key, $value := index . 1 -}}
- {name: FLEXSPEC_{{ $program }}_{{ upper $key }}, value: {{ ternary $value (toJson $value) (kindIs "string" $value) | quote }}}
{{ end }}
{{- end }}

{{/* A claim for each replica: (dict "name" … "size" … "storageClass" …). */}}
{{- define "flexspec.claim" -}}
- metadata: {name: {{ .name }}}
  spec:
    accessModes: [ReadWriteOnce]
    {{- with .storageClass }}
    storageClassName: {{ . }}
    {{- end }}
    resources: {requests: {storage: {{ .size }}}}
{{- end }}
