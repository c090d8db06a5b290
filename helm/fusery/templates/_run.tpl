{{/* What a run's YAML says of this release: its sources, services of its own, and the section `kubernetes`. */}}

{{- define "fusery.runSources" -}}
sources:
{{- range $name, $_ := .Values.sources }}
{{- $source := include "fusery.source" (dict "root" $ "name" $name) | fromYaml }}
{{- $address := include "fusery.sourceAddress" (dict "root" $ "source" $name) }}
{{- if eq $.Values.addressing "environment" }}{{ $address = "IP:50051" }}{{ end }}
  - {name: {{ $name }}, model: {{ $source.model | quote }}, address: {{ $address | quote }}}
{{- end }}
{{- end -}}

{{- define "fusery.runServices" -}}
{{- $services := dict -}}
{{- $external := .Values.broker.external -}}
{{- if not .Values.broker.enabled -}}
{{- $user := ternary (printf "%s@" $external.username) "" (ne $external.username "") -}}
{{- $_ := set $services "broker_url" (printf "%s://%s%s/0" (ternary "rediss" "redis" $external.tls) $user $external.address) -}}
{{- end -}}
{{- if and (not .Values.mlflow.enabled) .Values.mlflow.external -}}
{{- $_ := set $services "tracking_uri" .Values.mlflow.external -}}
{{- end -}}
{{- with $services }}{{ toYaml (dict "services" .) }}{{ end }}
{{- end -}}

{{- define "fusery.runKubernetes" -}}
{{- $values := .Values -}}
{{- $full := include "fusery.fullname" . -}}
{{- $spec := dict "namespace" .Release.Namespace "release" .Release.Name "fullname" $full -}}
{{- $_ := set $spec "image" (include "fusery.image" (dict "root" . "gpu" false "override" "")) -}}
{{- $_ := set $spec "gpu_image" (include "fusery.image" (dict "root" . "gpu" true "override" "")) -}}
{{- if ne $values.addressing "dns" }}{{ $_ := set $spec "addressing" $values.addressing }}{{ end -}}
{{- if ne $values.image.pullPolicy "IfNotPresent" }}{{ $_ := set $spec "image_pull_policy" $values.image.pullPolicy }}{{ end -}}
{{- with $values.imagePullSecrets }}{{ $_ := set $spec "image_pull_secrets" . }}{{ end -}}
{{- $account := include "fusery.serviceAccount" . -}}
{{- if ne $account $full }}{{ $_ := set $spec "service_account" $account }}{{ end -}}
{{- if ne (int $values.security.runAsUser) 10001 }}{{ $_ := set $spec "user" (int $values.security.runAsUser) }}{{ end -}}
{{- if ne (int $values.security.fsGroup) 10001 }}{{ $_ := set $spec "fs_group" (int $values.security.fsGroup) }}{{ end -}}
{{- with $values.broker.existingSecret }}{{ $_ := set $spec "broker_password_secret" . }}{{ end -}}
{{- $store := dict -}}
{{- if $values.store.url -}}
{{- $_ := set $store "volume" false -}}
{{- $_ := set $spec "work_claim" "CLAIM" -}}
{{- with $values.store.s3.credentialsSecret }}{{ $_ := set $store "credentials_secret" . }}{{ end -}}
{{- else -}}
{{- with $values.store.persistence.existingClaim }}{{ $_ := set $store "claim" . }}{{ end -}}
{{- end -}}
{{- with $store }}{{ $_ := set $spec "store" . }}{{ end -}}
{{- if not $values.models.persistence.enabled }}{{ $_ := set $spec "models" (dict "volume" false) }}
{{- else if $values.models.persistence.existingClaim }}{{ $_ := set $spec "models" (dict "claim" $values.models.persistence.existingClaim) }}
{{- end -}}
{{- $access := dict -}}
{{- $tls := $values.sourceAccess.tls -}}
{{- with $values.sourceAccess.tokenSecret }}{{ $_ := set $access "token_secret" . }}{{ end -}}
{{- with $tls.secret }}{{ $_ := set $access "tls_secret" (default . $tls.clientSecret) }}{{ end -}}
{{- if $tls.mutual }}{{ $_ := set $access "mutual" true }}{{ end -}}
{{- with $access }}{{ $_ := set $spec "source_access" . }}{{ end -}}
{{- toYaml (dict "kubernetes" $spec) -}}
{{- end -}}

{{/* Names of the Secrets that pods of the release mount, each once, sorted; without those of image registries. */}}
{{- define "fusery.secrets" -}}
{{- $tls := .Values.sourceAccess.tls -}}
{{- $names := list .Values.sourceAccess.tokenSecret $tls.secret $tls.clientSecret .Values.models.tokenSecret -}}
{{- $names = concat $names (list .Values.broker.existingSecret .Values.store.s3.credentialsSecret) .Values.imagePullSecrets -}}
{{- without $names "" | uniq | sortAlpha | join " " -}}
{{- end -}}
