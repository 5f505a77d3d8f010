FROM python:3.12-slim

ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1

WORKDIR /app
COPY . .
RUN pip install --no-cache-dir -e . \
    && useradd --system --uid 10001 flashsale \
    && install -d -o flashsale /data

USER flashsale
ENV FLASHSALE_DATA_DIR=/data
VOLUME /data
EXPOSE 8080

# Checks do not run by themselves under an ASGI server: wrong settings are told before the first customer.
CMD ["sh", "-c", "python manage.py check --deploy --fail-level ERROR && exec python manage.py runsale --host 0.0.0.0"]

HEALTHCHECK --interval=5s --timeout=3s --start-period=20s CMD \
    ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8080/readyz', timeout=2)"]
