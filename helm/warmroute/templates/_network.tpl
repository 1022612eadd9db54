{{/* Rules of NetworkPolicies that several pods share. */}}

{{- define "warmroute.egressToDns" -}}
# The cluster's DNS.
- ports: [{port: 53, protocol: UDP}, {port: 53, protocol: TCP}]
  to: {{- toYaml .Values.networkPolicy.dns | nindent 4 }}
{{- end -}}

{{/* dict "cidrs" LIST "ports" LIST */}}
{{- define "warmroute.egressToNetworks" -}}
- ports:
    {{- range .ports }}
    - {port: {{ int . }}, protocol: TCP}
    {{- end }}
  to:
    {{- range .cidrs }}
    - ipBlock: {cidr: {{ . | quote }}}
    {{- end }}
{{- end -}}

{{- define "warmroute.egressToRedis" -}}
{{- if eq .Values.redis.mode "builtin" -}}
# The registry.
- ports: [{port: 6379, protocol: TCP}]
  to:
    - podSelector:
        matchLabels: {{- include "warmroute.selector" (dict "root" . "component" "redis") | nindent 10 }}
{{- else if eq .Values.redis.mode "external" -}}
# The registry.
{{ include "warmroute.egressToNetworks" .Values.redis.external }}
{{- end -}}
{{- end -}}

{{- define "warmroute.monitoringPeers" -}}
{{- if .Values.networkPolicy.monitoring -}}
{{- toYaml .Values.networkPolicy.monitoring -}}
{{- else -}}
- podSelector: {}
{{- if .Values.metrics.serviceMonitor.enabled }}
- namespaceSelector:
    matchLabels: {kubernetes.io/metadata.name: monitoring}
{{- end }}
{{- end -}}
{{- end -}}
