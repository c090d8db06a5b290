{{/* What the schema can't say, for it concerns two values at once. Each message names the keys and a remedy. */}}
{{- define "fusery.checks" -}}
{{- $hops := list -}}
{{- range $name, $_ := .Values.workers -}}
{{- $worker := include "fusery.hops.worker" (dict "root" $ "name" $name) | fromYaml -}}
{{- $hops = concat $hops $worker.hops -}}
{{- if gt (int $worker.autoscaling.minReplicas) (int $worker.autoscaling.maxReplicas) -}}
{{- fail (printf "workers.%s.autoscaling: minReplicas is %v, maxReplicas %v; make maxReplicas the larger one" $name $worker.autoscaling.minReplicas $worker.autoscaling.maxReplicas) -}}
{{- end -}}
{{- if and $worker.autoscaling.enabled $.Values.broker.enabled (eq $.Values.addressing "environment") -}}
{{- fail (printf "workers.%s.autoscaling.enabled: KEDA finds the chart's broker by its DNS name, and addressing is environment; set it to false" $name) -}}
{{- end -}}
{{- end -}}
{{- range $hop := list "capture" "align" "fuse" -}}
{{- if not (has $hop $hops) -}}
{{- fail (printf "workers: nobody serves the hop %s, so no run would end; add it to the hops of a worker" $hop) -}}
{{- end -}}
{{- end -}}
{{- if and (not .Values.broker.enabled) (not .Values.broker.external.address) -}}
{{- fail "broker.enabled is false; name yours: broker.external.address (host:port), and broker.existingSecret where it has a password" -}}
{{- end -}}
{{- $external := .Values.broker.external -}}
{{- if and .Values.broker.enabled (or $external.address $external.username $external.ca $external.tls) -}}
{{- fail "broker.external is set, but broker.enabled is true and the chart's own broker would be taken; set it to false" -}}
{{- end -}}
{{- if and $external.ca (not $external.tls) -}}
{{- fail "broker.external.ca is set, but the connection is plain text; set broker.external.tls" -}}
{{- end -}}
{{- if and $external.username (not .Values.broker.existingSecret) -}}
{{- fail "broker.external.username needs broker.existingSecret, a Secret whose key password has the password" -}}
{{- end -}}
{{- if and .Values.sourceAccess.tls.mutual (not .Values.sourceAccess.tls.secret) -}}
{{- fail "sourceAccess.tls.mutual needs sourceAccess.tls.secret, a Secret with tls.crt, tls.key and ca.crt" -}}
{{- end -}}
{{- if and .Values.sourceAccess.tls.clientSecret (not .Values.sourceAccess.tls.secret) -}}
{{- fail "sourceAccess.tls.clientSecret is set, but source servers speak plain text; set sourceAccess.tls.secret too" -}}
{{- end -}}
{{- if and .Values.store.s3.credentialsSecret (not .Values.store.url) -}}
{{- fail "store.s3.credentialsSecret is set, but the store is a volume; set store.url to s3://BUCKET/FOLDER" -}}
{{- end -}}
{{- if and (not .Values.serviceAccount.create) .Values.serviceAccount.annotations -}}
{{- fail "serviceAccount.annotations are set, but serviceAccount.create is false; annotate your own service account" -}}
{{- end -}}
{{- range $name, $_ := .Values.sources -}}
{{- $service := printf "%s-source-%s" (include "fusery.fullname" $) $name -}}
{{- /* Nothing is found by helm template and at a first install. The API would take the change, and keep the old address. */ -}}
{{- with lookup "v1" "Service" $.Release.Namespace $service -}}
{{- $standing := ternary "dns" "environment" (eq (dig "spec" "clusterIP" "" .) "None") -}}
{{- if ne $standing $.Values.addressing -}}
{{- fail (printf "addressing is %s, but the Service %s stands with addressing %s, and a Service can't change from one to the other; keep %s, or uninstall the release (its volume claims stay) and install it anew" $.Values.addressing $service $standing $standing) -}}
{{- end -}}
{{- end -}}
{{- $source := include "fusery.source" (dict "root" $ "name" $name) | fromYaml -}}
{{- if not $source.model -}}
{{- fail (printf "sources.%s.model: missing; name a Hub id, a folder on the volume such as /models/mine, or tgi:URL" $name) -}}
{{- end -}}
{{- if and (not (regexMatch "^(tgi|vllm):" $source.model)) $source.tokenizer -}}
{{- fail (printf "sources.%s.tokenizer is for tgi: and vllm: models; %s brings its own" $name $source.model) -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* A worker's values with its defaults, as YAML: (dict "root" $ "name" "align") */}}
{{- define "fusery.hops.worker" -}}
{{- $given := get .root.Values.workers .name | default dict -}}
{{- mergeOverwrite (deepCopy .root.Values.workerDefaults) (deepCopy $given) | toYaml -}}
{{- end -}}

{{/* A source's values with its defaults, as YAML: (dict "root" $ "name" "mistral") */}}
{{- define "fusery.source" -}}
{{- $given := get .root.Values.sources .name | default dict -}}
{{- mergeOverwrite (deepCopy .root.Values.sourceDefaults) (deepCopy $given) | toYaml -}}
{{- end -}}
