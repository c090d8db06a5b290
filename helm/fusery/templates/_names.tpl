{{/* Names, labels and addresses. Every object is called FULLNAME-PART, at most 63 characters. */}}

{{/* 34 characters at most: 8 for "-source-" and 20 for a source's name come after it. A longer name keeps apart from
     others with the same beginning by a part of its hash. A Service's name must begin with a letter. */}}
{{- define "fusery.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := .Values.fullnameOverride -}}
{{- if not $full -}}
{{- $full = ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- end -}}
{{- if regexMatch "^[0-9]" $full }}{{- $full = printf "f%s" $full }}{{- end -}}
{{- $full = replace "." "-" $full -}}
{{- if gt (len $full) 34 -}}
{{- $full = printf "%s-%s" ($full | trunc 27 | trimSuffix "-") ($full | sha256sum | trunc 6) -}}
{{- end -}}
{{- $full -}}
{{- end -}}

{{/* Of all pods of this release, runs among them, which know no value of the chart; these never change, for a
     Deployment's selector can't be changed. */}}
{{- define "fusery.releaseSelector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{/* (dict "root" $ "component" "source" "name" "mistral") */}}
{{- define "fusery.selector" -}}
{{ include "fusery.releaseSelector" .root }}
app.kubernetes.io/component: {{ .component }}
{{- with .name }}
fusery/{{ $.component }}: {{ . }}
{{- end }}
{{- end -}}

{{- define "fusery.labels" -}}
{{ include "fusery.selector" . }}
app.kubernetes.io/part-of: fusery
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end -}}

{{/* metadata of an object: (dict "root" $ "component" … "name" … "suffix" "broker") */}}
{{- define "fusery.metadata" -}}
name: {{ include "fusery.fullname" .root }}-{{ .suffix }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "fusery.labels" . | nindent 2 }}
{{- end -}}

{{- define "fusery.serviceAccount" -}}
{{- if .Values.serviceAccount.name -}}{{ .Values.serviceAccount.name }}
{{- else if .Values.serviceAccount.create -}}{{ include "fusery.fullname" . }}
{{- else -}}default
{{- end -}}
{{- end -}}

{{/* Of sources, broker and MLflow: a cloud's role for the store, which annotations give, is not for them. */}}
{{- define "fusery.serverAccount" -}}
{{- if .Values.serviceAccount.create -}}{{ include "fusery.fullname" . }}-server
{{- else -}}{{ include "fusery.serviceAccount" . }}
{{- end -}}
{{- end -}}

{{/* Of runs that launch jobs. */}}
{{- define "fusery.runAccount" -}}
{{ include "fusery.fullname" . }}-run
{{- end -}}

{{/* (dict "root" $ "gpu" true "override" "") */}}
{{- define "fusery.image" -}}
{{- $tag := default .root.Chart.AppVersion .root.Values.image.tag -}}
{{- $image := .root.Values.image -}}
{{- if .override -}}{{ .override }}
{{- else if .gpu -}}{{ $image.repository }}:{{ default (printf "%s-gpu" $tag) $image.gpuTag }}{{ with $image.gpuDigest }}@{{ . }}{{ end }}
{{- else -}}{{ $image.repository }}:{{ $tag }}{{ with $image.digest }}@{{ . }}{{ end }}
{{- end -}}
{{- end -}}

{{/* Where a Service is reached: its name, or the variable that Kubernetes sets for it.
     (dict "root" $ "service" "broker") */}}
{{- define "fusery.host" -}}
{{- $service := printf "%s-%s" (include "fusery.fullname" .root) .service -}}
{{- if eq .root.Values.addressing "environment" -}}
$({{ $service | upper | replace "-" "_" }}_SERVICE_HOST)
{{- else -}}
{{ $service }}.{{ .root.Release.Namespace }}.svc.{{ .root.Values.clusterDomain }}
{{- end -}}
{{- end -}}

{{/* The address of a source, as the run's YAML has it: (dict "root" $ "source" "mistral") */}}
{{- define "fusery.sourceAddress" -}}
{{- $host := include "fusery.host" (dict "root" .root "service" (printf "source-%s" .source)) -}}
{{- if eq .root.Values.addressing "environment" -}}{{ $host }}:50051{{- else -}}dns:///{{ $host }}:50051{{- end -}}
{{- end -}}

{{- define "fusery.trackingUri" -}}
{{- if .Values.mlflow.enabled -}}http://{{ include "fusery.host" (dict "root" . "service" "mlflow") }}:5000
{{- else -}}{{ .Values.mlflow.external }}
{{- end -}}
{{- end -}}

{{/* The port of a URL or of host:port: (dict "address" … "default" 443) */}}
{{- define "fusery.port" -}}
{{- $place := .address | trimSuffix "/" -}}
{{- $port := regexFind ":[0-9]+(/|$)" $place | trimAll ":/" -}}
{{- if $port -}}{{ $port }}
{{- else if hasPrefix "http://" $place -}}80
{{- else -}}{{ .default }}
{{- end -}}
{{- end -}}
