{{/* The registry's address and credentials, for routers and agents alike. */}}

{{- define "warmroute.secretName" -}}
{{- default (include "warmroute.fullname" .) .Values.secrets.existingSecret -}}
{{- end -}}

{{/*
The URL, with variables of the pod where credentials belong, so that no manifest holds one. Empty if it comes whole from
a Secret, or if there is no Redis.
*/}}
{{- define "warmroute.redisUrl" -}}
{{- $external := .Values.redis.external -}}
{{- if eq .Values.redis.mode "builtin" -}}
{{- printf "redis://:$(REDIS_PASSWORD)@%s-redis:6379" (include "warmroute.fullname" .) -}}
{{- else if and (eq .Values.redis.mode "external") (not $external.urlKey) -}}
{{- $url := $external.url -}}
{{- if $external.existingSecret -}}
{{- $user := ternary "$(REDIS_USERNAME)" "" (ne $external.usernameKey "") -}}
{{- $url = regexReplaceAllLiteral "^([a-z+]+)://" $url (printf "%s://%s:$(REDIS_PASSWORD)@" (regexFind "^[a-z+]+" $url) $user) -}}
{{- end -}}
{{- $options := list -}}
{{- if $external.tls.existingSecret -}}
{{- $options = append $options "ssl_ca_certs=/etc/warmroute/redis-tls/ca.crt" -}}
{{- if $external.tls.clientCertificate -}}
{{- $options = concat $options (list "ssl_certfile=/etc/warmroute/redis-tls/tls.crt" "ssl_keyfile=/etc/warmroute/redis-tls/tls.key") -}}
{{- end -}}
{{- end -}}
{{- if $external.sentinelPasswordKey -}}
{{- $options = append $options "sentinel_password=$(REDIS_SENTINEL_PASSWORD)" -}}
{{- end -}}
{{- $url -}}
{{- if $options -}}{{- ternary "&" "?" (contains "?" $url) -}}{{- join "&" $options -}}{{- end -}}
{{- end -}}
{{- end -}}

{{/* Variables of a container that calls the registry: dict "root" $ "name" VARIABLE. */}}
{{- define "warmroute.redisEnv" -}}
{{- $redis := .root.Values.redis -}}
{{- $secret := include "warmroute.secretName" .root -}}
{{- if eq $redis.mode "builtin" }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ $secret }}, key: redis-password}}
- name: {{ .name }}
  value: {{ include "warmroute.redisUrl" .root | quote }}
{{- else if eq $redis.mode "external" }}
{{- with $redis.external }}
{{- if .urlKey }}
- name: {{ $.name }}
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .urlKey }}}}
{{- else }}
{{- if .existingSecret }}
{{- if .usernameKey }}
- name: REDIS_USERNAME
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .usernameKey }}}}
{{- end }}
- name: REDIS_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .passwordKey }}}}
{{- if .sentinelPasswordKey }}
- name: REDIS_SENTINEL_PASSWORD
  valueFrom: {secretKeyRef: {name: {{ .existingSecret }}, key: {{ .sentinelPasswordKey }}}}
{{- end }}
{{- end }}
- name: {{ $.name }}
  value: {{ include "warmroute.redisUrl" $.root | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end -}}

{{/* "true" where certificates for the registry are mounted. */}}
{{- define "warmroute.redisHasTls" -}}
{{- if and (eq .Values.redis.mode "external") .Values.redis.external.tls.existingSecret -}}true{{- end -}}
{{- end -}}

{{- define "warmroute.redisTlsMount" -}}
- name: redis-tls
  mountPath: /etc/warmroute/redis-tls
  readOnly: true
{{- end -}}

{{- define "warmroute.redisTlsVolume" -}}
- name: redis-tls
  secret:
    secretName: {{ .Values.redis.external.tls.existingSecret }}
    defaultMode: 0440
{{- end -}}
