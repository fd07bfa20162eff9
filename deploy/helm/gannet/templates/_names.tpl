{{- define "gannet.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "gannet.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 54 | trimSuffix "-" -}}
{{- else if contains (include "gannet.name" .) .Release.Name -}}
{{- .Release.Name | trunc 54 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "gannet.name" .) | trunc 54 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "gannet.selector" -}}
app.kubernetes.io/name: {{ include "gannet.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "gannet.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "gannet.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end -}}

{{- define "gannet.account" -}}
{{- .Values.serviceAccount.name | default (ternary (include "gannet.fullname" .) "default" .Values.serviceAccount.create) -}}
{{- end -}}

{{- define "gannet.secret" -}}
{{- .Values.existingSecret | default (include "gannet.fullname" .) -}}
{{- end -}}

{{/* The configuration with what the values set, as JSON: numbers stay what they are. */}}
{{- define "gannet.config" -}}
{{- $drain := .Values.drain -}}
{{- $server := dict "port" 8000 "internal_port" 9000 -}}
{{- if .Values.tls.secretName -}}
{{- $_ := set $server "tls" (dict "enabled" true "cert_pem" "/etc/gannet-tls/tls.crt" "key_pem" "/etc/gannet-tls/tls.key") -}}
{{- $_ := set $server "tls_external" true -}}
{{- end -}}
{{- $set := dict
  "http_server" $server
  "health" (dict "enabled" true)
  "prometheus" (dict "enabled" true)
  "grpc_api" (dict "enabled" .Values.grpc.enabled)
  "uni_grpc" (dict "enabled" .Values.uniGrpc.enabled)
  "shutdown" (dict "delay" (printf "%vs" $drain.delaySeconds) "spread" (printf "%vs" $drain.spreadSeconds)
    "deadline" (printf "%vs" $drain.deadlineSeconds)) -}}
{{- mergeOverwrite (deepCopy .Values.config) $set | toPrettyJson -}}
{{- end -}}
