{{/* What pods have in common: the restricted security context, settings, secrets as files, volumes. */}}

{{- define "fusery.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .Values.security.runAsUser }}
runAsGroup: {{ .Values.security.runAsUser }}
fsGroup: {{ .Values.security.fsGroup }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end -}}

{{- define "fusery.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* The head of a pod's spec: (dict "root" $ "grace" 60), and "isServer" true for what needs neither store nor broker. */}}
{{- define "fusery.podHead" -}}
serviceAccountName: {{ include (ternary "fusery.serverAccount" "fusery.serviceAccount" (.isServer | default false)) .root }}
automountServiceAccountToken: false
enableServiceLinks: {{ eq .root.Values.addressing "environment" }}
terminationGracePeriodSeconds: {{ .grace }}
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
securityContext:
  {{- include "fusery.podSecurity" .root | nindent 2 }}
{{- end -}}

{{/* Labels of a pod, the user's among them; ours win, for selectors live on them: (dict "part" $part "more" map) */}}
{{- define "fusery.podLabels" -}}
{{- mergeOverwrite (deepCopy .more) (include "fusery.labels" .part | fromYaml) | toYaml -}}
{{- end -}}

{{/* Where a pod may run: (dict "root" $ "with" values "selector" text) */}}
{{- define "fusery.placement" -}}
{{- with .with.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .with.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .with.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .with.topologySpreadConstraints }}
topologySpreadConstraints:
  {{- range . }}
  {{- $own := dict "labelSelector" (dict "matchLabels" (fromYaml $.selector)) }}
  - {{ toYaml (merge (deepCopy .) $own) | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- with .with.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .with.runtimeClassName }}
runtimeClassName: {{ . }}
{{- end }}
{{- end -}}

{{/* Pods start again when the settings change. */}}
{{- define "fusery.settingsChecksum" -}}
checksum/settings: {{ include (print .Template.BasePath "/settings.yaml") . | sha256sum }}
{{- end -}}

{{/* The broker's address, for workers, runs and tests. The password is in no address: clients read it from a file. */}}
{{- define "fusery.brokerEnv" -}}
{{- $external := .Values.broker.external -}}
- name: FUSERY_BROKER_URL
  {{- if .Values.broker.enabled }}
  value: redis://{{ include "fusery.host" (dict "root" . "service" "broker") }}:6379/0
  {{- else }}
  value: {{ ternary "rediss" "redis" $external.tls }}://{{ with $external.username }}{{ . }}@{{ end }}{{ $external.address }}/0
  {{- end }}
{{- end -}}

{{/* Of clients of sources, broker, store and MLflow: workers, runs and tests. */}}
{{- define "fusery.clientEnv" -}}
{{- include "fusery.brokerEnv" . }}
{{- with include "fusery.trackingUri" . }}
- name: FUSERY_TRACKING_URI
  value: {{ . }}
{{- end }}
{{- end -}}

{{- define "fusery.clientMounts" -}}
- {name: tmp, mountPath: /tmp}
{{- if not .Values.store.url }}
- {name: store, mountPath: /store}
{{- end }}
{{- include "fusery.tokenMount" . }}
{{- if .Values.sourceAccess.tls.secret }}
- {name: client-tls, mountPath: /etc/fusery/client-tls, readOnly: true}
{{- end }}
{{- if .Values.broker.existingSecret }}
- {name: broker-password, mountPath: /etc/fusery/broker, readOnly: true}
{{- end }}
{{- if .Values.store.s3.credentialsSecret }}
- {name: store-credentials, mountPath: /etc/fusery/store, readOnly: true}
{{- end }}
{{- end -}}

{{- define "fusery.clientVolumes" -}}
{{- $tls := .Values.sourceAccess.tls -}}
- name: tmp
  emptyDir: {}
{{- if not .Values.store.url }}
- name: store
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-store" (include "fusery.fullname" .)) .Values.store.persistence.existingClaim }}
{{- end }}
{{- include "fusery.tokenVolume" . }}
{{- if $tls.secret }}
# The authorities alone, unless this side shows a certificate too: a client needs no key of a server.
- name: client-tls
  secret:
    secretName: {{ default $tls.secret $tls.clientSecret }}
    defaultMode: 0440
    {{- if not $tls.mutual }}
    items:
      - {key: ca.crt, path: ca.crt}
    {{- end }}
{{- end }}
{{- include "fusery.brokerPasswordVolume" . }}
{{- with .Values.store.s3.credentialsSecret }}
- name: store-credentials
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: credentials, path: credentials}
{{- end }}
{{- end -}}

{{- define "fusery.brokerPasswordVolume" -}}
{{- with .Values.broker.existingSecret }}
- name: broker-password
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: password, path: password}
{{- end }}
{{- end -}}

{{- define "fusery.tokenMount" -}}
{{- if .Values.sourceAccess.tokenSecret }}
- {name: source-token, mountPath: /etc/fusery/source-token, readOnly: true}
{{- end }}
{{- end -}}

{{- define "fusery.tokenVolume" -}}
{{- with .Values.sourceAccess.tokenSecret }}
- name: source-token
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: token, path: token}
{{- end }}
{{- end -}}

{{/* A volume claim that outlives the release: (dict "root" $ "suffix" "store" "with" persistence) */}}
{{- define "fusery.claim" -}}
apiVersion: v1
kind: PersistentVolumeClaim
metadata:
  {{- include "fusery.metadata" (dict "root" .root "component" .suffix "suffix" .suffix) | nindent 2 }}
  annotations:
    # helm uninstall leaves it: what took GPU hours to make goes only when somebody deletes the claim.
    helm.sh/resource-policy: keep
spec:
  accessModes: {{ toJson (default (list "ReadWriteOnce") .with.accessModes) }}
  {{- if eq .with.storageClass "-" }}
  storageClassName: ""
  {{- else if .with.storageClass }}
  storageClassName: {{ .with.storageClass }}
  {{- end }}
  resources:
    requests:
      storage: {{ .with.size }}
{{- end -}}
